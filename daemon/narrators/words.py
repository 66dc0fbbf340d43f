"""What the back-ends that say new sentences share: where a sentence that goes on is cut."""

from __future__ import annotations

import re

_UNFINISHED = re.compile(r"[\w'\u2019\ufffd-]+\Z")
"""A word at the end, which may go on, or a letter of which bytes are missing."""


def whole_words(text: str) -> str:
    """Return a text without a last word that may go on.

    >>> whole_words("A dog sits under a tr")
    'A dog sits under a'
    >>> whole_words("A dog sits.")
    'A dog sits.'
    """
    return _UNFINISHED.sub("", text).strip()
