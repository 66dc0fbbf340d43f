"""The arguments of a trial's processes; the trials of other tests run them."""

from __future__ import annotations

from pathlib import Path

from evaluation.trial import TrialPlan, daemon_arguments, source_arguments


def recordings_in(folder: Path, n: int) -> list[str]:
    """Return folders, which are recordings_in to a trial."""
    made = []
    for number in range(n):
        sorting = folder / f"probe{number}"
        sorting.mkdir()
        made.append(str(sorting))
    return made


def test_one_source_sends_the_units_of_the_bundle(tmp_path: Path):
    """In the bundle's order, under the source's own name."""
    (recording,) = recordings_in(tmp_path, 1)
    words = source_arguments(TrialPlan(recording, tmp_path / "bundle", "llava", {"all": "all"}))
    assert words[:3] == ["stream", "sorting", recording]
    assert words[words.index("--units-from") + 1] == str(tmp_path / "bundle")
    assert "--stream" not in words


def test_each_probe_is_a_source_with_a_name(tmp_path: Path):
    """They send what they have, at one speed, and the daemon listens to all of them."""
    first, *others = recordings_in(tmp_path, 3)
    plan = TrialPlan(
        first, tmp_path, "llava", {"all": "all"}, seconds=2.0, more_recordings=tuple(others)
    )
    for number, recording in enumerate([first, *others]):
        words = source_arguments(plan, number)
        assert words[2] == recording
        assert words[words.index("--stream") + 1] == f"probe{number}"
        assert words[words.index("--seconds") + 1] == "2.0"
        assert "--units-from" not in words
    words = daemon_arguments(plan, "tcp://a:1", "tcp://b:2")
    assert [words[at + 1] for at, word in enumerate(words) if word == "--connect"] == [
        "tcp://a:1", "tcp://b:2",
    ]  # fmt: skip
