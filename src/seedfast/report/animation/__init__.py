"""Animations of sampling: on a terminal, as a GIF, and as a page, all of the same frames (`families.film`)."""
