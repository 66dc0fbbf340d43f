"""What numba has compiled, kept on the disk: a minute's work at each start of a sorter.

SpikeInterface compiles its loops at each start anew. numba can keep them where they were compiled
(``__pycache__``, or the user's cache where that cannot be written; ``NUMBA_CACHE_DIR`` names
another), if a function asks for it; it looks for changed sources and for another processor itself.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import Any


def cached(decorator: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a decorator of numba whose functions are kept on the disk."""

    def decorate(function: Any) -> Any:
        compiled = decorator(function)
        with suppress(RuntimeError, AttributeError):  # nowhere to write; compiling is switched off
            compiled.enable_caching()
        return compiled

    return decorate


def cache_compiled() -> None:
    """Keep what modules compile that are imported from now on.

    ``numba.jit`` has no setting for that, so it is replaced, once in a process.
    """
    import numba
    from numba.core import decorators

    original = decorators.jit
    if hasattr(original, "__wrapped__"):
        return

    @wraps(original)
    def jit(*arguments: Any, **options: Any) -> Any:
        if arguments and callable(arguments[0]):  # without options, as a decorator itself
            return cached(lambda function: original(function, **options))(arguments[0])
        return cached(original(*arguments, **options))

    numba.jit = decorators.jit = jit
