"""Concepts read from the embedding."""
