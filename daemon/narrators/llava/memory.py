"""A device without room for the model: one sentence instead of a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from contracts.errors import UserError


@contextmanager
def room_for_the_model(name: str, *, device: str, max_rows: int) -> Iterator[None]:
    """Say that a model does not fit, and what would.

    Parameters
    ----------
    name : str
        The model's folder or id.
    device : str
    max_rows : int
        Rows that room is made for.

    Raises
    ------
    UserError
        In place of torch's errors for a GPU and for a CPU.
    RuntimeError
        Any that is not about memory, as it is.
    """
    import torch

    try:
        yield
    except RuntimeError as error:
        # For a CPU torch has no class of its own.
        is_known = isinstance(error, torch.OutOfMemoryError)
        if not is_known and "can't allocate memory" not in str(error):
            raise
        narrower = "" if device == "cpu" else ", narrator.dtype to a narrower format,"
        raise UserError(
            f"the memory of {device!r} must hold the language model and {max_rows} sentences at "
            f"once, and does not hold {name!r} with them. Set narrator.max_rows to fewer{narrower} "
            "or narrator.model to a smaller model."
        ) from error
