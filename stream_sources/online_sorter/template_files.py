"""Templates in a folder: ``templates.json``, and the arrays in ``templates.npz``.

The JSON has the format's version, everything that is not an array, and the sha256 of the arrays;
it is written last, so that a folder without it was not finished. No pickle is read.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.atomic_files import write_bytes, write_json
from contracts.errors import UserError
from contracts.population import Population, Unit
from stream_sources.online_sorter.templates import Preprocessing, SorterTemplates
from stream_sources.rigs.voltages import ProbeLayout

FORMAT = "neurrate-templates"
VERSION = 1
DOCUMENT = "templates.json"
ARRAYS = "templates.npz"

ARRAY_DTYPES = {
    "rates_hz": np.float64,
    "waveforms_uv": np.float32,
    "is_active": np.bool_,
    "positions_um": np.float64,
    "noise_uv": np.float64,
    # Thresholds are set by it: 11 bits are plenty, and halve the file.
    "background_uv": np.float16,
}
"""In the file."""


def write_templates(folder: Path, templates: SorterTemplates) -> None:
    """Write templates into a folder that exists, whole or not at all.

    Other files of the folder are left alone.
    """
    buffer = io.BytesIO()
    values: dict[str, Any] = {
        name: _array(templates, name).astype(dtype) for name, dtype in ARRAY_DTYPES.items()
    }
    np.savez_compressed(buffer, **values)
    content = buffer.getvalue()
    document = {
        "format": FORMAT,
        "version": VERSION,
        "sha256": {ARRAYS: hashlib.sha256(content).hexdigest()},
        "origin": templates.origin,
        "rate_hz": templates.rate_hz,
        "n_before": templates.n_before,
        "preprocessing": asdict(templates.preprocessing),
        "channel_ids": list(templates.layout.channel_ids),
        "units": [asdict(unit) for unit in templates.population.units],
    }
    (folder / DOCUMENT).unlink(missing_ok=True)
    write_bytes(folder / ARRAYS, content)
    write_json(folder / DOCUMENT, document)


def read_templates(folder: Path) -> SorterTemplates:
    """Read what `write_templates` wrote, and check all of it.

    Raises
    ------
    UserError
        If it is not there, of another version, damaged, or against a rule of `SorterTemplates`.
    """
    document = _read_document(folder / DOCUMENT)
    arrays = _read_arrays(folder / ARRAYS, document["sha256"][ARRAYS])
    try:
        return SorterTemplates(
            population=Population([Unit(**unit) for unit in document["units"]]),
            rates_hz=arrays["rates_hz"],
            waveforms_uv=arrays["waveforms_uv"],
            is_active=arrays["is_active"],
            n_before=document["n_before"],
            layout=ProbeLayout(tuple(document["channel_ids"]), arrays["positions_um"]),
            rate_hz=document["rate_hz"],
            preprocessing=Preprocessing(**document["preprocessing"]),
            noise_uv=arrays["noise_uv"],
            background_uv=arrays["background_uv"].astype(np.float32),
            origin=document["origin"],
        )
    except (UserError, TypeError, ValueError) as error:
        raise UserError(f"{folder}: {error}") from error


def has_templates(folder: Path) -> bool:
    """Whether a folder has templates that were written to the end."""
    return (folder / DOCUMENT).is_file()


def _array(templates: SorterTemplates, name: str) -> NDArray[Any]:
    owner = templates.layout if name == "positions_um" else templates
    array: NDArray[Any] = getattr(owner, name)
    return array


FIELDS: dict[str, type | tuple[type, ...]] = {
    "sha256": dict,
    "origin": str,
    "rate_hz": (int, float),
    "n_before": int,
    "preprocessing": dict,
    "channel_ids": list,
    "units": list,
}
"""Of the document, with their types in JSON."""


def _read_document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: there is no such file. Templates are made by neurrate calibrate."
        ) from error
    except ValueError as error:
        raise UserError(f"{path}: it is no JSON in UTF-8: {error}. Make it anew.") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise UserError(f"{path}: the format must be {FORMAT!r}. Name a folder of templates.")
    if document.get("version") != VERSION:
        raise UserError(
            f"{path}: this program reads version {VERSION} of the format, and the file has "
            f"{document.get('version')!r}. Make the templates anew."
        )
    wrong = [name for name, kind in FIELDS.items() if not isinstance(document.get(name), kind)]
    if not wrong and not isinstance(document["sha256"].get(ARRAYS), str):
        wrong = [f"sha256 of {ARRAYS}"]
    if wrong:
        raise UserError(f"{path}: {', '.join(wrong)} missing, or of another type. Make it anew.")
    return document


def _read_arrays(path: Path, sha256: str) -> dict[str, NDArray[Any]]:
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file. Make the templates anew.") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise UserError(
            f"{path}: it is damaged, or of other templates: its sha256 must be {sha256[:16]}..., "
            f"got {found[:16]}.... Copy both files again, or make the templates anew."
        )
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: file[name] for name in ARRAY_DTYPES}
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: it cannot be read: {error}. Make the templates anew.") from error
    wrong = [name for name, array in arrays.items() if array.dtype != ARRAY_DTYPES[name]]
    if wrong:
        raise UserError(f"{path}: {', '.join(wrong)} of another type. Make the templates anew.")
    return arrays
