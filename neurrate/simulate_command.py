"""``neurrate simulate``: a recording and a model that need no download."""

from __future__ import annotations

from pathlib import Path

from contracts.errors import UserError
from neurrate.arguments import Count, Seconds, Seed
from neurrate.tables import check_folder_writable, check_writable


def recording(out: Path, *, seconds: Seconds = 60.0, units: Count = 120, seed: Seed = 0) -> None:
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
        If the file exists or cannot be written.
    """
    from simulation.recording import write_recording

    if out.exists():
        raise UserError(f"{out} exists already. Name another file, or remove it first.")
    check_writable(out)
    write_recording(out, seconds=seconds, n_units=units, seed=seed)
    print(f"wrote {out}")


def llava(out: Path, *, seed: Seed = 0) -> None:
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

    check_folder_writable(out)
    write_random_llava(out, seed=seed)
    print(f"wrote {out}")
