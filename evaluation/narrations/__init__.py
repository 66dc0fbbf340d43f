"""Narrations of simulated scenes against the facts of the scenes."""
