"""A device whose memory is too small for the model: one sentence instead of a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from contracts.errors import UserError


@contextmanager
def explain_out_of_memory(name: str, *, device: str, max_rows: int) -> Iterator[None]:
    """Turn torch's errors about memory into one that says what to change.

    Raises
    ------
    UserError
        In place of torch's errors for a GPU and for a CPU.
    RuntimeError
        Any that is not about memory, unchanged.
    """
    import torch

    try:
        yield
    except RuntimeError as error:
        # For a CPU torch has no class of error.
        is_of_gpu = isinstance(error, torch.OutOfMemoryError)
        if not is_of_gpu and "can't allocate memory" not in str(error):
            raise
        narrower = "" if device == "cpu" else ", narrator.dtype to a narrower format,"
        raise UserError(
            f"the memory of {device!r} must hold the language model and {max_rows} sentences at "
            f"once, and does not hold {name!r} with them. Set narrator.max_rows to fewer{narrower} "
            "or narrator.model to a smaller model."
        ) from error
