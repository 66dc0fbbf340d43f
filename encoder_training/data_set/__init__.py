"""Data sets for training: counts, presentations, splits, and the report."""
