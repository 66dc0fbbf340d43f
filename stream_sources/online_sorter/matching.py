"""SpikeInterface's template matching, one block at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.errors import UserError
from stream_sources.online_sorter.blocks import VoltageBlock
from stream_sources.online_sorter.compiled_cache import cache_compiled
from stream_sources.online_sorter.templates import SorterTemplates, probe_of

METHODS = ("nearest", "tdc-peeler", "wobble", "circus-omp")
"""By processor time, the cheapest first (docs/online-sorter.md)."""

DEFAULT_METHOD, CHEAPEST = "tdc-peeler", METHODS[0]

MS_BEFORE, MS_AFTER = 0.5, 0.8
"""The least that a template must have around its spike: what ``tdc-peeler`` compares."""


@dataclass(frozen=True, slots=True, eq=False)
class FoundSpikes:
    """The spikes of one block, in order of time.

    Attributes
    ----------
    sample : array, shape (n_spikes,), int64
        Sample number of the run.
    unit_index : array, shape (n_spikes,), int64
        Row of the templates.
    n_unassigned : int
        Peaks of no unit: above the threshold, and no template near.
    """

    sample: NDArray[np.int64]
    unit_index: NDArray[np.int64]
    n_unassigned: int


class Matcher:
    """One method, ready to run.

    Attributes
    ----------
    margin : int
        Samples that it needs on each side of a block.

    Raises
    ------
    UserError
        If there is no such method, or the templates are too short for it.
    """

    def __init__(self, templates: SorterTemplates, method: str) -> None:
        self.method = method
        self._node = matching_node(templates, method)
        self.margin: int = self._node.get_margin()
        self._warm(templates)

    def match(self, block: VoltageBlock, margin: int) -> FoundSpikes:
        """Find the spikes of a block that was cut with a margin of at least ours."""
        beyond = margin - self.margin
        traces = block.traces_uv[beyond : len(block.traces_uv) - beyond]
        (spikes,) = self._node.compute(traces, block.start, block.stop, 0, self.margin)
        is_unit = spikes["cluster_index"] >= 0
        spikes = spikes[is_unit]
        order = np.argsort(spikes["sample_index"], kind="stable")
        return FoundSpikes(
            sample=spikes["sample_index"][order] + (block.start - self.margin),
            unit_index=spikes["cluster_index"][order],
            n_unassigned=int((~is_unit).sum()),
        )

    def close(self) -> None:
        """Release what the method holds."""
        self._node.clean()

    def _warm(self, templates: SorterTemplates) -> None:
        """Have everything compiled before the first block."""
        background = np.ascontiguousarray(templates.background_uv)
        stop = len(background) - self.margin
        if stop > self.margin:
            self.match(VoltageBlock(self.margin, stop, background.copy()), self.margin)


def matching_node(templates: SorterTemplates, method: str) -> Any:
    """Return SpikeInterface's node of a method, with its own defaults.

    It may be run offline as well, by ``run_node_pipeline``. ``tdc-peeler`` sets one of its
    thresholds by what the recording that it is given sounds like; here this is always
    `SorterTemplates.background_uv`, so that the result does not depend on what is sorted.

    Raises
    ------
    UserError
        As for `Matcher`.
    """
    check_method(method)
    check_templates(templates)
    cache_compiled()
    from spikeinterface.core import NumpyRecording
    from spikeinterface.sortingcomponents.matching.method_list import matching_methods

    background = NumpyRecording(
        [templates.background_uv],
        templates.rate_hz,
        channel_ids=np.array(templates.layout.channel_ids),
    )
    background.set_probe(probe_of(templates.layout))
    node_class = matching_methods[method]
    options: dict[str, Any] = {}
    if node_class.need_noise_levels:
        options["noise_levels"] = templates.noise_uv
    # Shared memory serves several workers, and would outlive a process that is killed.
    if method == "circus-omp":
        options["shared_memory"] = False
    if method == "wobble":
        options |= {"shared_memory": False, "parameters": {"shared_memory": False}}
    return node_class(background, templates=templates.spikeinterface_templates(), **options)


def check_templates(templates: SorterTemplates) -> None:
    """Refuse templates that are too short to be compared.

    Raises
    ------
    UserError
        With their length.
    """
    rate_hz, n_before = templates.rate_hz, templates.n_before
    n_after = templates.n_samples - n_before
    if n_before / rate_hz * 1e3 < MS_BEFORE or n_after / rate_hz * 1e3 < MS_AFTER:
        raise UserError(
            f"templates must have {MS_BEFORE} ms before a spike and {MS_AFTER} ms after it, got "
            f"{n_before / rate_hz * 1e3:.2f} and {n_after / rate_hz * 1e3:.2f} ms "
            f"({templates.origin}). Calibrate anew."
        )


def check_method(method: str) -> None:
    """Refuse a method that there is not.

    Raises
    ------
    UserError
        With those that there are.
    """
    if method not in METHODS:
        raise UserError(f"--method must be one of {', '.join(METHODS)}, got {method!r}.")
