"""Rules for a benchmark: probabilities that cross 0.5 either way, so that triggers are many."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from contracts.toml import toml_string

if TYPE_CHECKING:
    from contracts.manifest import Manifest

MAX_CONCEPTS = 8  # Two rules for each
RULES = "rules.toml"


def rules_text(concepts: Sequence[str], population: str) -> str:
    """Return a file of rules: one for each concept that begins, and one for each that ends.

    Without a refractory time, and released at their own threshold, the two fire in turn.

    `concepts` are probes of the bundle.
    """

    def when(concept: str, sign: str) -> str:
        mark = "'" if '"' in concept else '"'
        return toml_string(f"probe {mark}{concept}{mark} of {population} {sign} 0.5")

    tables = [
        f"[triggers.{direction}-{number}-{population}]\nwhen = {when(concept, sign)}\n"
        for number, concept in enumerate(concepts)
        for direction, sign in (("begins", ">"), ("ends", "<"))
    ]
    return "\n".join(tables)


def write_rules(folder: Path, manifest: Manifest, population: str) -> Path | None:
    """Write rules for the first probes of a bundle; return None if it has no probes."""
    from daemon.triggers.probes import load_probes

    probes = load_probes(manifest)
    if probes is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / RULES
    path.write_text(rules_text(probes.concepts[:MAX_CONCEPTS], population), encoding="utf-8")
    return path
