"""Text prompt to masks to measurements."""
