"""Embedding diffusion: language models that denoise continuous token embeddings."""

from seedfast.families.text.embedding.family import Embedding, EmbeddingDiffusion
from seedfast.families.text.embedding.network import EmbeddingNetwork
from seedfast.families.text.embedding.sampling import EmbeddingRequest

__all__ = ["Embedding", "EmbeddingDiffusion", "EmbeddingNetwork", "EmbeddingRequest"]
