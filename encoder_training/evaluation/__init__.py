"""Evaluation of an encoder against decoders that need no network."""
