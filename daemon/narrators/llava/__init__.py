"""The `llava` back-end: a frozen LLaVA, decoded by a loop of our own.

Loaded once (`loading`), turned into a lean decoder (`decoder`), and driven a token at a time for
all rows at once (`engine`); `narrator` is what the daemon sees. torch comes in when
a model is loaded, and not before.
"""

from daemon.narrators.llava.narrator import LlavaNarrator

__all__ = ["LlavaNarrator"]
