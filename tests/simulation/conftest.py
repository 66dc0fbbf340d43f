"""Fixtures of this folder."""

from tests.support.tiny_bundle import tiny_llava

__all__ = ["tiny_llava"]
