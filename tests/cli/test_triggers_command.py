"""``neurrate triggers score`` before anything is started: what is refused, what is asked for."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from contracts.manifest import Manifest, load_manifest, sha256_of, write_manifest
from contracts.window import WindowSpec
from evaluation.trial import TrialPlan, daemon_arguments, source_arguments
from evaluation.triggers.plan import NEVER, DryRunRequest, _settings, prepare
from neurrate.cli import main
from tests.support.nwb_files import write_presentations, write_units
from tests.support.tiny_bundle import tiny_population
from tests.support.triggers import concept_probes, write_probes

CAR = "[triggers.car_seen]\nwhen = 'probe \"car\" of all > 0.5 for 3 windows'\n"
DOG = "[triggers.dog_said]\nwhen = 'narration of VISp says \"dog\"'\n"
TRUTH = "start_s,stop_s,concept\n1,2,car\n"


@pytest.fixture
def probed(stub_bundle: Manifest, tmp_path: Path) -> Path:
    """Return a bundle with probes and a graph that is none: nothing here opens it."""
    folder = tmp_path / "bundle"
    shutil.copytree(stub_bundle.folder, folder)
    write_probes(folder, concept_probes())
    hashes = {**stub_bundle.model.sha256}
    hashes["probes.safetensors"] = sha256_of(folder / "probes.safetensors")
    write_manifest(folder, stub_bundle.model.model_copy(update={"sha256": hashes}))
    return folder


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Ten seconds of the bundle's units."""
    rng = np.random.default_rng(0)
    units = tiny_population().units
    return write_units(
        tmp_path / "session.nwb",
        [np.sort(rng.random(20) * 10) for _ in units],
        ids=[int(unit.unit_id) for unit in units],
    )


def _write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def _words(recording: Path, bundle: Path, folder: Path, *, rules: str = CAR) -> list[str]:
    path = _write(folder, "rules.toml", rules)
    return ["triggers", "score", str(recording), "--bundle", str(bundle), "--rules", str(path)]


def test_no_truth_at_all_is_said(recording: Path, probed: Path, tmp_path: Path, capsys):
    """A recording without captions needs a file of truth; its columns are named."""
    assert main(_words(recording, probed, tmp_path)) == 2
    said = capsys.readouterr().err
    assert "has no captions" in said
    assert "--truth FILE, a CSV of start_s,stop_s,concept" in said


def test_truth_of_another_clock_is_said(recording: Path, probed: Path, tmp_path: Path, capsys):
    """Where no stretch lies in the recording, no rule can be scored, and nothing is replayed."""
    truth = _write(tmp_path, "t.csv", "start_s,stop_s,concept\n1000,1001,car\n")
    assert main([*_words(recording, probed, tmp_path), "--truth", str(truth)]) == 2
    said = capsys.readouterr().err
    assert "no rule can be scored" in said
    assert "1000.000 to 1001.000 s" in said
    assert "do both count from the same zero?" in said


def test_truth_of_other_things_is_said(recording: Path, probed: Path, tmp_path: Path, capsys):
    """A file that names no rule's concept cannot score any."""
    truth = _write(tmp_path, "t.csv", "start_s,stop_s,concept\n1,2,bicycle\n")
    assert main([*_words(recording, probed, tmp_path), "--truth", str(truth)]) == 2
    assert "car_seen: no row of" in (said := capsys.readouterr().err)
    assert "there are bicycle" in said


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ("", "must hold one rule or more"),
        ("[triggers.a]\nwhen = 'probe \"cat\" of all > 0.5'\n", "did you mean car?"),
        ("[triggers.a]\nwhen = 'probe \"car\" of all > high'\n", "expected a number"),
        ("[triggers.a]\nwhen = 'probe \"car\" of V9 > 0.5'\n", "populations.V9"),
        ("[triggers.a\n", "is not TOML"),
    ],
)
def test_problems_of_rules_come_through(
    rules: str, said: str, recording: Path, probed: Path, tmp_path: Path, capsys
):
    """As the daemon says them, before anything is started."""
    assert main(_words(recording, probed, tmp_path, rules=rules)) == 2
    assert said in capsys.readouterr().err


def test_a_bundle_without_probes_is_said(
    recording: Path, stub_bundle: Manifest, tmp_path: Path, capsys
):
    """Rules on probes need some."""
    assert main(_words(recording, stub_bundle.folder, tmp_path)) == 2
    assert "asks for a concept probe, and the bundle has none" in capsys.readouterr().err


def test_a_recording_of_other_units_is_said(probed: Path, tmp_path: Path, capsys):
    """The bundle's units are looked for in it, and those that it has not are named."""
    other = write_units(tmp_path / "other.nwb", [np.array([0.5, 1.0])] * 2, ids=[1, 2])
    truth = _write(tmp_path, "t.csv", TRUTH)
    assert main([*_words(other, probed, tmp_path), "--truth", str(truth)]) == 2
    assert "950900" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--speed", "fast"], "--speed must be max or a number"),
        (["--picture", "rules.jpg"], "must end in .png, .svg, .pdf"),
        (["--json", "nowhere/out.json"], "there is no folder"),
        (["--seconds", "0"], "--seconds"),
        (["--start", "-1"], "--start"),
        (["--set", "ring.capactiy_s=3"], "Did you mean ring.capacity_s?"),
        (["--config", "nowhere.toml"], "There is no settings file nowhere.toml"),
        (["--truth", "nowhere.csv"], "must be a CSV file that is there"),
        (["--populations", "V9"], "populations.V9"),
    ],
)
def test_bad_options_are_refused_at_once(
    options: list[str], said: str, recording: Path, probed: Path, tmp_path: Path, capsys
):
    """A sentence and code 2, before the replay."""
    assert main([*_words(recording, probed, tmp_path), *options]) == 2
    assert said in capsys.readouterr().err


def test_help_has_examples(capsys):
    """Each line of the examples is the command."""
    assert main(["triggers", "score", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "neurrate triggers score session.nwb" in shown.partition("For example:")[2]
    assert "--truth" in shown


def test_rules_on_probes_need_no_language(probed: Path, tmp_path: Path):
    """The narrator is the cheapest there is and gets next to nothing; all rules are dry."""
    rules = _write(tmp_path, "rules.toml", CAR)
    asked = DryRunRequest("s.nwb", probed, rules, settings=("triggers.dry_run=false",))
    settings, told = _settings(asked, load_manifest(probed))
    assert settings.triggers.dry_run
    assert settings.triggers.rules == rules
    assert (settings.narrator.backend, settings.narrator.mode) == ("retrieval", "sequential")
    assert settings.handover.every == NEVER
    assert settings.populations == {"all": "all"}
    assert "triggers.dry_run=true" in told


@pytest.mark.parametrize(("speed", "mode"), [("max", "sequential"), ("1", "worker")])
def test_rules_on_narrations_are_heard_whole_or_as_live(
    speed: str, mode: str, probed: Path, tmp_path: Path
):
    """At full speed nothing is dropped; at a fixed one the narrator works beside the loop."""
    rules = _write(tmp_path, "rules.toml", CAR + DOG)
    settings, _ = _settings(
        DryRunRequest("s.nwb", probed, rules, speed=speed), load_manifest(probed)
    )
    assert settings.narrator.mode == mode
    assert (settings.narrator.backend, settings.handover.every) == ("llava", 1)
    assert settings.populations == {"all": "all", "VISp": "VISp"}


def test_populations_come_from_the_settings_or_the_command_line(probed: Path, tmp_path: Path):
    """A file's own table of populations is heard, unless the command line names some."""
    rules = _write(tmp_path, "rules.toml", CAR)
    config = _write(tmp_path, "rig.toml", '[populations]\nall = "all"\nseers = "ids:950900"\n')
    manifest = load_manifest(probed)
    asked = DryRunRequest("s.nwb", probed, rules, config=config)
    assert _settings(asked, manifest)[0].populations == {"all": "all", "seers": "ids:950900"}
    named = DryRunRequest("s.nwb", probed, rules, config=config, populations="all, area:VISp")
    assert _settings(named, manifest)[0].populations == {"all": "all", "area_VISp": "area:VISp"}


def test_captions_are_the_truth_where_there_is_no_file(
    recording: Path, probed: Path, tmp_path: Path
):
    """The plan holds all that the replay needs; the tolerance is window, lag and dwell."""
    write_presentations(
        recording, "m_presentations", start_time=[1.0, 2.0], stop_time=[2.0, 3.0],
        frame=[0.0, 1.0], caption=["A car.", "A dog."],
    )  # fmt: skip
    rules = _write(tmp_path, "rules.toml", CAR)
    prepared = prepare(DryRunRequest(str(recording), probed, rules, start=0.5, seconds=4.0))
    try:
        (car,) = prepared.book.rules
        assert prepared.truth.concept_intervals(car) == ((10**9, 2 * 10**9),)
        spec: WindowSpec = prepared.spec
        assert (spec.n_bins, spec.stride_bins, spec.lag_ns) == (20, 10, 0)
        assert prepared.tolerance_ns(car) == spec.rate.start_ns(20 + 2 * 10)
        assert prepared.source.span_ns == (500_000_000, 4_500_000_000)
        words = source_arguments(prepared.plan)
        assert words[words.index("--start") + 1] == "0.5"
    finally:
        prepared.source.close()


def test_a_plan_with_settings_of_its_own_gives_them_to_the_daemon(tmp_path: Path):
    """The file comes first, then the populations as one table, then what was set."""
    plan = TrialPlan(
        "https://example.org/s.nwb", tmp_path, "llava", {"all": "all", "seers": 'ids:1|"2'}, 8,
        config=tmp_path / "rig.toml", settings=("narrator.mode=worker",),
    )  # fmt: skip
    words = daemon_arguments(plan, "tcp://127.0.0.1:5570")
    assert words[words.index("--config") + 1] == str(tmp_path / "rig.toml")
    assert 'populations={all = "all", seers = "ids:1|\\"2"}' in words
    assert words[-1] == "narrator.mode=worker"
    assert source_arguments(plan)[:3] == ["stream", "nwb", "https://example.org/s.nwb"]
