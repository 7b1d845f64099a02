"""Export of trained models: folders that other libraries load, and uploads to the hub."""
