"""``neurrate simulate``: a recording and a model that need no download."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from contracts.atomic_files import check_folder_writable, check_writable
from contracts.errors import UserError
from neurrate.arguments import Count, Seconds, Seed
from simulation.seeds import ANIMAL


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


def session(
    out: Path,
    *,
    units: Count = 600,
    minutes: Annotated[float, Parameter(validator=validators.Number(gt=0, lte=600))] = 20.0,
    repeats: Count = 5,
    scene_frames: Annotated[int, Parameter(validator=validators.Number(gte=1, lte=60))] = 60,
    frames: bool = True,
    animal: Seed = ANIMAL,
    seed: Seed = 0,
) -> None:
    """Simulate an animal that watches movies, and write the session with the Allen layout.

    A movie of 30 s, shown again and again before and after a long one that is never repeated;
    grey in between; at the end pulses of light for the tagged cell types. The movies' frames,
    facts and captions lie beside the file.

    Examples
    --------
        neurrate simulate session session.nwb
        neurrate simulate session short.nwb --minutes 3 --repeats 1 --no-frames --seed 4
        neurrate simulate session other.nwb --animal 8

    Parameters
    ----------
    out
        NWB file to write; ``OUT_movies`` beside it takes the movies.
    units
        Units of the animal, in LGd, six visual areas and CA1. With the default 600, and the default
        --animal, it is the animal whose encoder 'neurrate bundle simulated' makes.
    minutes
        That movies run: 30 s for each repeat, the rest for the long movie. Grey and pulses of
        light add about three minutes.
    repeats
        Times that the short movie is shown before the long one, and as often after it.
    scene_frames
        Frames of each scene of the long movie, thirty a second: fewer make more scenes, and more to
        learn from.
    frames
        Keep the frames of the movies, about 20 kB each.
    animal
        Seed of the units. Another animal sees the same movies with the same --seed, and its spikes
        are its own.
    seed
        Of the day: noise, spikes and the long movie.
    """
    from simulation.cortex.days import write_day

    check_writable(out)
    truth = write_day(
        out,
        n_units=units,
        minutes=minutes,
        repeats=repeats,
        scene_frames=scene_frames,
        with_frames=frames,
        seed=seed,
        animal=animal,
    )
    print(
        f"wrote {out}: {len(truth.units)} units, {len(truth.trains.samples):,} spikes, "
        f"{truth.trains.schedule.duration_s / 60:.1f} minutes; movies in {truth.movies}"
    )


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


def scenes(out: Path, *, count: Count = 24, seed: Seed = 0) -> None:
    """Draw random street scenes with their captions on one page, or each as an image of its own.

    Examples
    --------
        neurrate simulate scenes scenes.png
        neurrate simulate scenes more.png --count 60 --seed 7
        neurrate simulate scenes images/ --count 2000

    Parameters
    ----------
    out
        PNG to write; or, for a name without a suffix, the folder for scene_0.png, scene_1.png ...
    count
        Scenes.
    seed
        Of the first scene; the next has the next.

    Raises
    ------
    UserError
        If the file is no PNG.
    """
    from simulation.scenes.contact_sheet import contact_sheet, write_images
    from simulation.scenes.scene import random_scene

    if out.suffix.lower() not in {"", ".png"}:
        raise UserError(f"the page is a PNG, so its name ends in .png; got {out}.")
    drawn = [random_scene(seed + number) for number in range(count)]
    if out.suffix:
        check_writable(out)
        contact_sheet(drawn, out)
    else:
        check_folder_writable(out)
        write_images(drawn, out)
    print(f"wrote {out}")
