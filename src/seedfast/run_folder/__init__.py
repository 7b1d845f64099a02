"""What a run leaves on the disk: checkpoints, the training state, the journal, the lock."""
