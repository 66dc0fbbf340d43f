"""Messages for displays, as a daemon would send them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contracts.displays import ProbeRule, ProbeScores, ProbeWindow, Rates, pack_encoder
from contracts.manifest import (
    MANIFEST_VERSION,
    LanguageModel,
    Manifest,
    ManifestModel,
    PatchGridModel,
    TrainingData,
    UnitModel,
    WindowModel,
)
from contracts.population import Unit
from tests.support.tiny_bundle import tiny_population

FINGERPRINT = "0123456789abcdef"


def rates(start_s: float = 1.0, **changes: Any) -> Rates:
    """Return the rates of a tenth of a second, of three units."""
    values: dict[str, Any] = {
        "seq": 0,
        "host_ns": 2**60,
        "fingerprint": FINGERPRINT,
        "start_s": start_s,
        "stop_s": start_s + 0.1,
        "n_gap_bins": 0,
        "populations_hz": {"all": 12.5, "silent": None},
        "unit_step": 1,
        "unit_counts": [0, 3, 1],
    }
    return Rates(**values | changes)


def probes(stop_s: float = 1.0, **changes: Any) -> ProbeScores:
    """Return the scores of two concepts, one of which a rule is about."""
    values: dict[str, Any] = {
        "seq": 0,
        "host_ns": 2**60,
        "window": ProbeWindow(seq=3, start_s=stop_s - 0.25, stop_s=stop_s, frame_s=stop_s - 0.05),
        "rules": {"car_seen": ProbeRule("VISp", "car", True, 0.8, 0.6, 0.25)},
        "scores": {"VISp": {"car": 0.25, "dark": 0.5}},
    }
    return ProbeScores(**values | changes)


def manifest_of(units: Sequence[Unit] = ()) -> Manifest:
    """Return the manifest of a bundle without files."""
    units = units or tiny_population().units
    model = ManifestModel(
        format_version=MANIFEST_VERSION,
        window=WindowModel(bin_rate_num=120, n_bins=20, stride_bins=10, lag_ns=50_000_000),
        population=[UnitModel(**unit.labels) for unit in units],
        unit_mean=[0.1] * len(units),
        unit_std=[0.3] * len(units),
        patch_grid=PatchGridModel(rows=8, cols=8, dim=64),
        language_model=LanguageModel(model_id="tiny-llava"),
        training_data=TrainingData(recording="tests", session_id="700000000"),
        trained=True,
        scores={"retrieval": 0.5},
        sha256={},
        command="tests",
    )
    return Manifest(model, Path(), "0" * 64)


def encoder_parts(
    manifest: Manifest | None = None, names: Sequence[str] = ("all", "VISp", "shuffled", "silent")
) -> list[bytes]:
    """Return the message of the encoder, as a daemon that narrates these populations sends it."""
    manifest = manifest or manifest_of()
    chosen = [manifest.population.select(name) for name in names]
    expressions = {name: name for name in names}
    return pack_encoder(manifest, manifest.window_spec, chosen, expressions, ("car", "dark"))
