"""Times against peers, side by side."""
