"""Text data: sources, tokenizers, the split, windows of tokens."""
