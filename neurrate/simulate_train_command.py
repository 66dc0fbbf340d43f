"""``neurrate simulate train-...``: how the shipped weights were made."""

from __future__ import annotations

from pathlib import Path

from contracts.atomic_files import check_folder_writable, check_writable
from neurrate.arguments import Count, Seed


def train_llava(
    out: Path,
    *,
    scenes: Count = 16_000,
    tower_steps: Count = 2_400,
    language_steps: Count = 2_000,
    seed: Seed = 0,
    curves: Path | None = None,
) -> None:
    """Train a small LLaVA to see the simulated world: the classes of the 7B model, 1.4 M weights.

    Draws random street scenes, teaches a CLIP vision tower what stands where, freezes it, and
    teaches a projector and a small Llama to say it. About half an hour on two cores. A training
    that was interrupted goes on from its last finished part when the same command is given again.

    Examples
    --------
        neurrate simulate train-llava tiny-llava/ --curves curves.png
        neurrate simulate train-llava try/ --scenes 500 --tower-steps 50 --language-steps 50

    Parameters
    ----------
    out
        Folder of the model, its log and, until the end, its unfinished work.
    scenes
        Random scenes to learn from, two frames of each.
    tower_steps
        Batches of 128 pictures for the vision tower.
    language_steps
        Batches of 64 pictures for the language model.
    seed
        Of weights, order and noise; the same seed gives the same model on the same computer.
    curves
        Draw the log into this PNG or SVG.
    """
    import logging

    from simulation.llava import recipe

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    check_writable(curves)
    recipe.train_llava(
        out,
        recipe.Recipe(
            scenes=scenes, tower_steps=tower_steps, language_steps=language_steps, seed=seed
        ),
    )
    if curves is not None:
        recipe.plot_curves(out, curves)
    print(f"wrote {out}")


def train_encoder(
    out: Path,
    *,
    model: Path | None = None,
    scenes: Count = 10_000,
    epochs: Count = 8,
    seed: Seed = 0,
    curves: Path | None = None,
) -> None:
    """Train the encoder of the simulated animal: spikes to the patches of the small LLaVA.

    Simulates a session, a short movie that is repeated and a long one of random scenes, and does
    with it what 'neurrate prepare', 'train' and 'export' do. Scenes are held out for validation and
    test. About an hour on two cores, and 20 kB of disk a frame until the end.

    Examples
    --------
        neurrate simulate train-encoder encoder/ --curves curves.png
        neurrate simulate train-encoder try/ --scenes 60 --epochs 1

    Parameters
    ----------
    out
        Folder for the weights, their scaling and their captioned frames.
    model
        Folder of the LLaVA; the shipped one if omitted.
    scenes
        Seconds of the long movie, a random scene in each.
    epochs
        Passes over the windows.
    seed
        Of the day, the weights and the order.
    curves
        Draw the log into this PNG or SVG.
    """
    import shlex
    import sys

    from evaluation.simulated_encoder import (
        SHIPPED_MODEL,
        BundleRecipe,
        train_simulated_encoder,
    )

    check_folder_writable(out)
    check_writable(curves)
    train_simulated_encoder(
        out,
        model or SHIPPED_MODEL,
        BundleRecipe(scenes=scenes, epochs=epochs, seed=seed),
        command=shlex.join(["neurrate", *sys.argv[1:]]),
        notify=lambda line: print(line, file=sys.stderr, flush=True),
        curves=curves,
    )
    print(f"wrote {out}")


def train_probes(
    dataset: Path, out: Path, *, encoder: Path | None = None, concepts: str = "", seed: Seed = 0
) -> None:
    """Train concept probes for the encoder of the simulated animal, and calibrate its confidence.

    From a session of the same animal with a long movie of its own. About two minutes on two cores.

    Examples
    --------
        neurrate simulate session day.nwb --minutes 15 --repeats 2 --scene-frames 30 --seed 21
        neurrate prepare day.nwb data/ --frames day_movies/ --model simulation/weights/tiny-llava
        --units allen --every 2 --split middle
        neurrate simulate train-probes data/ simulation/weights/encoder/

    Parameters
    ----------
    dataset
        Folder of 'neurrate prepare'.
    out
        Folder to write probes.safetensors, probes.json and the two files of the confidence to.
    encoder
        Folder of 'neurrate simulate train-encoder'; the shipped one if omitted.
    concepts
        Words of the captions, separated by commas; those of the simulated world if omitted.
    seed
        Of the random populations that they are trained with.
    """
    from evaluation.simulated_encoder import CONCEPTS, SHIPPED_ENCODER, fit_simulated_probes
    from neurrate.tables import print_table

    words = tuple(word.strip() for word in concepts.split(",") if word.strip())
    probes = fit_simulated_probes(
        dataset,
        out,
        encoder=encoder or SHIPPED_ENCODER,
        concepts=words or CONCEPTS,
        seed=seed,
    )
    print_table(
        "Area under the curve, test windows, all units",
        [
            {"concept": concept, "area": f"{probes.of(concept).auc.value:.3f}"}
            for concept in probes.concepts
        ],
    )
    print(f"wrote {out}")
