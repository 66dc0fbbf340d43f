"""Fixtures of this folder."""

from tests.support.tiny_bundle import tiny_bundle

__all__ = ["tiny_bundle"]
