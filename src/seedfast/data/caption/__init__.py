"""Captioned images: sources, the data set, and its preparation."""
