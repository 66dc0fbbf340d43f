"""Fixtures of this folder."""

from tests.support.tiny_bundle import stub_bundle, tiny_bundle, tiny_llava

__all__ = ["stub_bundle", "tiny_bundle", "tiny_llava"]
