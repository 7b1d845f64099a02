"""The mathematics of Gaussian diffusion, as pure functions of tensors: no modules, no files, no randomness."""
