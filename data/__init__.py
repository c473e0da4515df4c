"""Slides, regions and samples come in here."""
