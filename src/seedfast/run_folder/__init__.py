"""The files of a run folder: checkpoints, training state, journal and lock."""
