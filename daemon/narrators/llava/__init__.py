"""The `llava` back-end: a frozen LLaVA with a decoding loop of its own.

The model is loaded once (`loading`), turned into a lean decoder (`decoder`), and advanced a token
at a time for all rows (`engine`); `narrator` is what the daemon uses. torch is imported when a
model is loaded, and not before.
"""

from daemon.narrators.llava.narrator import LlavaNarrator

__all__ = ["LlavaNarrator"]
