"""Proofreading diffusion: models that fill gaps, detect wrong words, and correct their own text."""

from seedfast.families.text.proofreading.family import Proofreading

__all__ = ["Proofreading"]
