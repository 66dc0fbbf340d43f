"""``neurrate simulate score``: narrations of scenes whose contents are known."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter, validators

from contracts.atomic_files import check_writable
from contracts.errors import DependencyError, UserError, listed
from contracts.temporary_folder import TemporaryFolder
from neurrate.arguments import Count, JsonOption, Seed, command_text
from neurrate.tables import print_table, write_json
from simulation.seeds import SEEN, UNSEEN_SCORE

if TYPE_CHECKING:
    from evaluation.narrations.report import Report

Scenes = Annotated[int, Parameter(validator=validators.Number(gte=2, lte=5_000))]
"""Two or more: chance compares a scene with another. Each draw of the bootstrap counts every scene,
and every sentence is compared with every scene, which takes about a GB for the most."""

N_SCENES, N_PAIRS = 500, 20
IMAGES = "images"
"""Folder of the figures, beside the page."""

SHOWN = ("object_f1", "direction", "count", "distance", "light")
"""Scores of the table on the terminal."""


def score(
    *,
    bundle: Path | None = None,
    model: str | None = None,
    scenes: Scenes = N_SCENES,
    pairs: Count = N_PAIRS,
    seed: Seed = UNSEEN_SCORE,
    sbert: bool = True,
    json: JsonOption = None,
    markdown: Path | None = None,
) -> None:
    """Score narrations of scenes whose contents are known: from their frames, and from spikes.

    Draws scenes that no training has used, shows them to the simulated animal, streams its spikes
    through a source and a daemon in processes of their own, and compares every sentence with the
    facts. About seven minutes on two cores.

    Examples
    --------
        neurrate simulate score --json scores.json
        neurrate simulate score --markdown docs/simulated-world-scores.md
        neurrate simulate score --bundle bundle/ --model tiny-llava/ --scenes 50 --pairs 5

    Parameters
    ----------
    bundle
        An encoder of the simulated animal; the shipped one if omitted.
    model
        Folder of the language model; that of the bundle's manifest if omitted.
    scenes
        Scenes to score.
    pairs
        Controlled clips for each of six features: two scenes that differ in it alone.
    seed
        Of scenes, spikes, subsets of units, and the bootstrap. Seeds of scenes that a training
        has used are refused.
    sbert
        Compare sentences by all-MiniLM-L6-v2 too, which must be installed.
    json
        Write every number to this file, as JSON.
    markdown
        Write a page to this file, and its figures to the folder images beside it.

    Raises
    ------
    UserError
        If a training has used the scenes of that seed.
    DependencyError
        If a package is missing that is needed at the end.
    """
    from contracts.manifest import load_manifest
    from evaluation.narrations.run import ScoreSession
    from evaluation.narrations.sbert import load_sentence_model
    from evaluation.simulated_encoder import write_shipped_bundle

    check_writable(json)
    check_writable(markdown)
    if seed in SEEN:
        raise UserError(
            f"--seed must give scenes that no training has used, got {seed}: the trainings use "
            f"{listed(sorted(SEEN))}. Leave it out, or choose another."
        )
    _check_installed("scipy", *(["matplotlib"] if markdown is not None else []))
    encoder = load_sentence_model() if sbert else None
    command = _command(bundle, model, scenes=scenes, pairs=pairs, seed=seed, sbert=sbert)
    with TemporaryFolder("neurrate-score-") as folder:
        if bundle is None:
            manifest = write_shipped_bundle(folder / "bundle", command=command)
        else:
            manifest = load_manifest(bundle)
        language_model = model or manifest.model.language_model.model_id
        session = ScoreSession(folder, manifest, language_model, seed=seed)
        report = session.run(n_scenes=scenes, n_pairs=pairs, encoder=encoder, command=command)
    _show(report)
    write_json(json, report.to_json())
    if markdown is not None:
        _write_page(report, markdown)


def _check_installed(*packages: str) -> None:
    """Check before the long work for the packages that are used after it.

    Raises
    ------
    DependencyError
        With the packages that are missing.
    """
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise DependencyError(
            f"A score needs {' and '.join(missing)}, which is not installed. "
            "Install it: python -m pip install 'neurrate[eval]'"
        )


def _command(
    bundle: Path | None, model: str | None, *, scenes: int, pairs: int, seed: int, sbert: bool
) -> str:
    """Return the command without what changes no number."""
    text = command_text(
        "simulate", "score", bundle=bundle, model=model, scenes=scenes, pairs=pairs, seed=seed
    )
    return text if sbert else f"{text} --no-sbert"


def _show(report: Report) -> None:
    narrators = {"true patches": report.true_patches, **report.spikes}
    narrators |= {f"{number} visual units": scores for number, scores in report.units.items()}
    rows: list[dict[str, object]] = [
        {"narrated": name, **{key: round(scored.scores[key].value, 3) for key in SHOWN}}
        for name, scored in narrators.items()
    ]
    print_table(f"Scores over {report.n_scenes} unseen scenes", rows)
    print_table(
        "Targets",
        [
            {
                "target": target.name,
                "wanted": target.wanted,
                "found": target.found,
                "met": "yes" if target.is_met else f"no, by {target.missed_by:.3f}",
            }
            for target in report.targets
        ],
    )


def _write_page(report: Report, path: Path) -> None:
    from evaluation.narrations.figures import write_figures
    from evaluation.narrations.page import page

    figures = write_figures(report, path.parent / IMAGES)
    links = {caption: f"{IMAGES}/{figure.name}" for caption, figure in figures.items()}
    path.write_text(page(report, links), encoding="utf-8")
