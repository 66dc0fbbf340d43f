"""Where a sentence that goes on is cut."""

from __future__ import annotations

import pytest

from daemon.narrators.whole_words import whole_words


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("A dog sits under a tr", "A dog sits under a"),
        ("A dog sits.", "A dog sits."),
        ("Dog.", "Dog."),
        ("A", ""),
        ("", ""),
        (" The dog's", "The"),
        ("It is 5 \u00b0C, and \ufffd", "It is 5 \u00b0C, and"),
        ("near the t-shirt", "near the"),
    ],
)
def test_whole_words(text, whole):
    """A last word that may go on is left out, and so is half a letter."""
    assert whole_words(text) == whole
