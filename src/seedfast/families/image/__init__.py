"""Image diffusion."""
