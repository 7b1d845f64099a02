"""Listeners: where a run's progress is reported besides its own folder."""
