"""``neurrate inspect``: what is in a recording or a bundle."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contracts.atomic_files import check_writable
from contracts.errors import listed
from contracts.selection_text import named, shown
from neurrate.arguments import JsonOption
from neurrate.tables import print_table, write_json

if TYPE_CHECKING:
    from collections.abc import Mapping


def inspect(
    path: str,
    *,
    units: str = "all",
    units_from: Path | None = None,
    spikes: bool | None = None,
    json: JsonOption = None,
) -> None:
    """Say what is in a recording or a bundle, and check that it can be used.

    For example:

        neurrate inspect session.nwb
        neurrate inspect session.nwb --units allen
        neurrate inspect session.nwb --units-from bundle/
        neurrate inspect https://example.org/session.nwb
        neurrate inspect dandi:000021/sub-699733573/sub-699733573_ses-715093703.nwb
        neurrate inspect kilosort4/
        neurrate inspect bundle/ --json bundle.json

    Parameters
    ----------
    path
        NWB file, Zarr or URL, dandi:DANDISET/PATH, folder of a sorting, or bundle.
    units
        For recordings: conditions that a unit must meet, as for 'neurrate stream nwb'.
    units_from
        For recordings: a bundle whose units must all be there.
    spikes
        For NWB files: read and check the spike times, most of a file. By default unless they
        are behind http(s).
    json
        Write the same to this file, as JSON.
    """
    from contracts.manifest import MANIFEST_NAME
    from daemon.service.logs import configure_logging

    check_writable(json)
    configure_logging()
    is_bundle = (Path(path) / MANIFEST_NAME).is_file()
    facts = (
        _bundle_facts(Path(path))
        if is_bundle
        else _recording_facts(path, units, units_from, spikes)
    )
    print_table(path, [{"": name, "found": _shown(value)} for name, value in facts.items()])
    write_json(json, {"path": path, "kind": "bundle" if is_bundle else "recording", **facts})


def _recording_facts(
    path: str, units: str, units_from: Path | None, spikes: bool | None
) -> dict[str, Any]:
    from dataclasses import asdict

    from stream_sources.recordings.open_source import summarise, units_of

    return asdict(summarise(path, units=units, only=units_of(units_from), reads_spikes=spikes))


def _bundle_facts(folder: Path) -> dict[str, Any]:
    from contracts.manifest import load_manifest

    manifest = load_manifest(folder)
    model, spec, grid = manifest.model, manifest.window_spec, manifest.patch_grid
    population = manifest.population
    return {
        "format_version": model.format_version,
        "sha256": manifest.sha256,
        "is_trained": model.trained,
        "n_units": len(population),
        "fingerprint": population.fingerprint,
        "areas": dict(Counter(u.area for u in population.units if u.area).most_common()),
        "bin_rate_hz": spec.rate.bins_per_s,
        "n_bins": spec.n_bins,
        "stride_bins": spec.stride_bins,
        "lag_s": spec.lag_ns / 1e9,
        "patch_grid": f"{grid.rows} x {grid.cols} x {grid.dim}",
        "language_model": model.language_model.model_id,
        "recording": model.training_data.recording,
        "scores": dict(model.scores),
        "files": sorted(model.sha256),
        "command": model.command,
    }


def _shown(value: object) -> str:
    match value:
        case dict():
            return _counts(value)
        case (str(), *_) if isinstance(value, tuple):
            return "\n".join(value)
        case None:
            return "-"
        case list() | tuple():
            return listed(value) or "-"
        case float():
            return f"{value:,.3f}"
        case int() if not isinstance(value, bool):
            return f"{value:,}"
        case _:
            return str(value) or "-"


def _counts(values: Mapping[str, object]) -> str:
    # A name that holds a comma stands in quotation marks, as it is typed.
    names = [named(name) if "," in name else shown(name) or "(none)" for name in values]
    counted = zip(names, values.values(), strict=True)
    return ", ".join(f"{name} {value}" for name, value in counted) or "-"
