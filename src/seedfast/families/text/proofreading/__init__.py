"""Proofreading diffusion: models that fill gaps, doubt what stands there, and correct themselves."""

from seedfast.families.text.proofreading.family import Proofreading, ProofreadingDiffusion

__all__ = ["Proofreading", "ProofreadingDiffusion"]
