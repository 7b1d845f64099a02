"""seedfast: train generative models that you can trust to the last bit."""

__version__ = "0.1.0"
