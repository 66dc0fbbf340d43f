"""``neurrate simulate``: a recording and a model that need no download."""

from __future__ import annotations

from pathlib import Path

from contracts.errors import UserError


def recording(out: Path, *, seconds: float = 60.0, units: int = 120, seed: int = 0) -> None:
    """Write a synthetic recording with the Allen layout.

    Examples
    --------
        neurrate simulate recording session.nwb
        neurrate simulate recording session.nwb --seconds 300 --units 400 --seed 7

    Parameters
    ----------
    out
        NWB file to write.
    seconds
        Length of the session.
    units
        Units, in VISp, VISl, LGd and CA1 on two probes.
    seed
        The same seed gives the same spikes.

    Raises
    ------
    UserError
        If the file exists.
    """
    from simulation.recording import write_recording

    if out.exists():
        raise UserError(f"{out} exists already. Name another file, or remove it first.")
    write_recording(out, seconds=seconds, n_units=units, seed=seed)
    print(f"wrote {out}")


def llava(out: Path, *, seed: int = 0) -> None:
    """Write a small LLaVA with random weights: the classes of the 7B model, and noise for text.

    Examples
    --------
        neurrate simulate llava tiny-llava/

    Parameters
    ----------
    out
        Folder to write.
    seed
        The same seed gives the same weights.
    """
    from simulation.tiny_llava import write_random_llava

    write_random_llava(out, seed=seed)
    print(f"wrote {out}")
