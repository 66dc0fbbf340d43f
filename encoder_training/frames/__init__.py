"""The stimulus, and what a vision tower sees of it."""
