"""``neurrate export``: a run becomes a bundle that the daemon loads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter, validators

from contracts.atomic_files import check_folder_writable
from neurrate.arguments import Count, Seed
from neurrate.tables import print_table

if TYPE_CHECKING:
    from encoder_export.parity import Parity

Narrations = Annotated[int, Parameter(validator=validators.Number(gte=0, lte=256))]
Windows = Annotated[int, Parameter(validator=validators.Number(gte=1, lte=256))]
"""256 take a minute and a half of one core with the paper's encoder, most of it in float64."""


def export(
    run: Path,
    bundle: Path,
    *,
    precision: Literal["float32", "float16", "int8"] = "float32",
    engine: Literal["tensorrt", "tensorrt-rtx"] | None = None,
    populations: Count = 1,
    windows: Windows = 256,
    narrations: Narrations = 32,
    model: str | None = None,
    dataset: Path | None = None,
    stride: Count | None = None,
    seed: Seed = 0,
    overwrite: bool = False,
) -> None:
    """Make a bundle of a trained encoder, if its graph agrees with the network.

    The graph is compared with the network in float64 on real windows of the data set, in its
    patches and in their narrations. If it is too far off, nothing is written and the error has the
    numbers; parity.json in the bundle has them too.

    Examples
    --------
        neurrate export run/ bundle/
        neurrate export run/ bundle/ --precision int8
        neurrate export run/ bundle/ --precision float16 --engine tensorrt --populations 4
        neurrate export run/ bundle/ --narrations 0

    Parameters
    ----------
    run
        Folder of 'neurrate train', finished.
    bundle
        Folder to write.
    precision
        Of the graph. float32: for every machine; int8: 0.6 to 0.85 of its time on
        a CPU; float16: for a GPU. The daemon falls back to float32 where they are too far off.
    engine
        Also make an engine for the GPU here (tensorrt), or for any GPU from Ampere on
        (tensorrt-rtx, which needs none here). Otherwise the daemon makes one when it starts.
    populations
        Populations that will be narrated at once; the engine is made fastest for them.
    windows
        Windows of the data set to compare, at most.
    narrations
        How many of them are narrated, from the graph and from the network; 0 compares patches
        alone and needs no language model here.
    model
        Folder or hub id of the language model, if it is not where the data set found it.
    dataset
        Folder of the data set, if it is not where 'neurrate train' found it.
    stride
        Bins between the starts of two windows when narrating; as in the run if omitted.
    seed
        Of the random populations that are compared.
    overwrite
        Replace an existing bundle.
    """
    from encoder_export.bundle import check_target
    from encoder_export.export import ExportRequest, export_run

    check_folder_writable(bundle)
    check_target(bundle, overwrite=overwrite)
    request = ExportRequest(
        run=run,
        bundle=bundle,
        precision=precision,
        engine=engine.replace("-", "_") if engine else None,
        populations=populations,
        windows=windows,
        narrations=narrations,
        model=model,
        dataset=dataset,
        stride_bins=stride,
        seed=seed,
    )
    exported = export_run(request, overwrite=overwrite)
    _print_parity("the graph", exported.graph)
    if exported.engine:
        _print_parity("the engine", exported.engine)
    if exported.untried:
        print(f"the engine of {exported.untried} was made and not tried: no GPU is here")
    print(f"wrote {bundle}: neurrate run --bundle {bundle}")


def _print_parity(name: str, parity: Parity) -> None:
    """Print the numbers in 76 columns; the runtime, of any length, is in the title above."""
    agreement = (
        f"{parity.n_equal} of {parity.n_narrations}" if parity.n_narrations else "not compared"
    )
    print_table(
        f"{name} against the network in float64: {parity.runtime}",
        [
            {
                "windows": parity.n_windows,
                "lowest cosine": f"{parity.min_cosine:.7f}",
                "mean cosine": f"{parity.mean_cosine:.7f}",
                "largest error": f"{parity.max_relative_error:.2g}",
                "equal narrations": agreement,
            }
        ],
    )
