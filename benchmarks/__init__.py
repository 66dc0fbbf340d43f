"""A benchmark for each component, what bounds it, and records of its results."""
