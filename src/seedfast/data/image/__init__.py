"""Image data: sources, the split, and the processor that a vision model expects."""
