"""Embedding diffusion: language models that denoise continuous token embeddings."""

from seedfast.families.text.embedding.family import Embedding, EmbeddingObjective
from seedfast.families.text.embedding.generator import EmbeddingGenerator
from seedfast.families.text.embedding.network import EmbeddingNetwork, EmbeddingShape
from seedfast.families.text.embedding.sampling import EmbeddingRequest

__all__ = [
    "Embedding",
    "EmbeddingGenerator",
    "EmbeddingNetwork",
    "EmbeddingObjective",
    "EmbeddingRequest",
    "EmbeddingShape",
]
