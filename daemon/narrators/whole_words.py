"""Where a sentence that is still growing is cut; shared by the back-ends that generate text."""

from __future__ import annotations

import re

_UNFINISHED = re.compile(r"[\w'\u2019\ufffd-]+\Z")
"""A last word that may continue, or a character of which bytes are missing."""


def whole_words(text: str) -> str:
    """Return a text without a last word that may continue.

    >>> whole_words("A dog sits under a tr")
    'A dog sits under a'
    >>> whole_words("A dog sits.")
    'A dog sits.'
    """
    return _UNFINISHED.sub("", text).strip()
