"""Tools of those who work on this project."""
