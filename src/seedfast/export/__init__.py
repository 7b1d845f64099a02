"""A trained model as a folder for other libraries."""
