"""Listeners: copies of the journal and the best checkpoint for TensorBoard, Weights & Biases and the hub."""
