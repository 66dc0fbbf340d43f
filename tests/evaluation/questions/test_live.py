"""What is taken from a journal, what is left out and counted, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from contracts.clock import ns_to_second
from contracts.daemon_json import pack_daemon
from contracts.errors import UserError
from contracts.journal import Origin
from contracts.manifest import Manifest
from contracts.narration import Narration, Provenance, Status
from contracts.narration_wire import pack_narration
from daemon.service.settings import Settings
from evaluation.questions.live import LiveNarrations, load_live
from subscribers.recorder.journal_writer import JournalWriter, Taken
from tests.support.manual_clock import ManualClock
from tests.support.narrations import narration

ADDRESS = "tcp://127.0.0.1:5571"


def of_window(
    manifest: Manifest, first_bin: int, *, population: str = "all", text: str = "A car."
) -> Narration:
    """Return a narration of a window of the bundle."""
    spec, model = manifest.window_spec, manifest.model.language_model.model_id
    start_ns, stop_ns = spec.rate.start_ns(first_bin), spec.rate.start_ns(first_bin + spec.n_bins)
    return replace(
        narration(population=population, text=text),
        window_start_s=ns_to_second(start_ns),
        window_stop_s=ns_to_second(stop_ns),
        provenance=Provenance(manifest.sha256, "llava", model, Settings().narrator.prompt),
    )


def identity(manifest: Manifest, **narrator: object) -> list[bytes]:
    """Return the message of a daemon that narrates two populations."""
    settings = Settings.model_validate(
        {"populations": {"all": "all", "V1": "VISp"}, "narrator": narrator}
    )
    return pack_daemon(bundle=manifest.sha256, settings=settings.model_dump(mode="json"), host_ns=0)


def read(
    folder: Path, manifest: Manifest, messages: Sequence[Narration | list[bytes]]
) -> LiveNarrations:
    """Record messages of a daemon, and read its narrations."""
    writer = JournalWriter(folder, ManualClock(), part_bytes=1 << 30, min_free_bytes=1)
    for message in messages:
        parts = pack_narration(message) if isinstance(message, Narration) else message
        writer.add(Taken(Origin.DAEMON, ADDRESS, 0, tuple(parts)))
    writer.close()
    return load_live(folder, manifest, None)


def test_windows_that_all_populations_have_are_kept(tmp_path: Path, tiny_bundle: Manifest):
    """By bin; a population has the name that the questions give its units."""
    live = read(
        tmp_path,
        tiny_bundle,
        [
            identity(tiny_bundle),
            *(of_window(tiny_bundle, first) for first in (0, 7, 12_345_678_901)),
            *(of_window(tiny_bundle, first, population="V1") for first in (7, 8, 12_345_678_901)),
        ],
    )
    assert set(live.selections) == {"all", "area:VISp"}
    assert live.first_bins.tolist() == [7, 12_345_678_901]
    assert live.n_left_out == {}
    assert live.words.prompt == Settings().narrator.prompt


def test_what_cannot_be_compared_is_counted(tmp_path: Path, tiny_bundle: Manifest):
    """Nothing is left out in silence, and what was less than whole is named."""
    good = of_window(tiny_bundle, 5)
    other = replace(good, provenance=replace(good.provenance, bundle="0" * 64))
    failed = replace(good.utterance, text="", status=Status.FAILED)
    messages: list[Narration | list[bytes]] = [
        good,  # before the daemon has published its settings
        identity(tiny_bundle),
        good,
        other,
        replace(good, window_start_s=good.window_start_s + 1e-4),
        of_window(tiny_bundle, 5, text="A dog."),
        replace(of_window(tiny_bundle, 4), utterance=failed),
        replace(of_window(tiny_bundle, 6), n_gap_bins=1),
        replace(of_window(tiny_bundle, 7), n_missing_units=2),
    ]
    live = read(tmp_path, tiny_bundle, messages)
    assert live.narrated["all"][5].text == "A dog."
    assert [(n, reason.split(",")[0]) for reason, n in live.n_left_out.items()] == [
        (1, "are of a daemon whose settings are not in the journal"),
        (1, "are of another bundle"),
        (1, "are of windows that are not on the grid of the bundle"),
        (1, "replace an earlier one of the same window"),
        (1, "failed"),
        (2, "are of windows in which spikes or units were missing"),
    ]
    notes = live.notes("nwb:1")
    assert notes[0] == "narrated by a daemon, and read from a journal: 4 of all"
    assert "1 narrations are of another bundle, and left out" in notes


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"max_new_tokens": 9}, "by one narrator"),
        ({"model": "another"}, "Name the daemon's model with --model"),
        ({"backend": "retrieval"}, "the retrieval back-end"),
        ({"bundle": "1" * 64}, "are of 111111111111"),
        (None, "holds no narration"),
    ],
)
def test_other_narrators_are_refused(
    tmp_path: Path, tiny_bundle: Manifest, changes: dict[str, Any] | None, problem: str
):
    """A ceiling of another model, or two narrators, would be compared with nothing of theirs."""
    good = of_window(tiny_bundle, 5)
    messages: list[Narration | list[bytes]] = [identity(tiny_bundle)]
    if changes is not None and "max_new_tokens" in changes:
        messages += [good, identity(tiny_bundle, **changes), of_window(tiny_bundle, 6)]
    elif changes is not None:
        messages += [replace(good, provenance=replace(good.provenance, **changes))]
    with pytest.raises(UserError, match=problem):
        read(tmp_path, tiny_bundle, messages)
