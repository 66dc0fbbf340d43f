"""The file of rules: what it may hold, and that every mistake is said at once."""

import logging
from pathlib import Path

import pytest

from contracts.errors import SettingsError
from daemon.triggers.probes import ConceptProbes
from daemon.triggers.rule_file import STRAGGLER_NS, RuleBook, load_rules
from daemon.triggers.tables import CommandSinkTable, HttpSinkTable, OpenEphysSinkTable
from tests.support.triggers import concept_probes

POPULATIONS = {"all": "all", "VISp": "area:VISp"}

WHOLE = """
[triggers.car_seen]
when = 'probe "car" of VISp > 0.8 for 2 windows'
release = 0.6
refractory_s = 1.5
sinks = ["stimulus", "gui"]

[triggers.night]
when = 'narration of all says "dark"'
dry_run = true
sinks = ["pulse"]

[sinks.stimulus]
kind = "http"
url = "http://127.0.0.1:8000/trigger?x=1"

[sinks.gui]
kind = "open_ephys"
message = "ACQBOARD TRIGGER 1 100"

[sinks.pulse]
kind = "command"
command = "cat -u"

[sinks.nobody]
kind = "http"
url = "https://example.org"

[likeness]
model = "some/folder"
"""


def _load(
    folder: Path, text: str, probes: ConceptProbes | None = None, **options: bool
) -> RuleBook:
    path = folder / "rules.toml"
    path.write_text(text)
    return load_rules(path, probes=probes, populations=POPULATIONS, **options)


def _problems(folder: Path, text: str, probes: ConceptProbes | None = None) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        _load(folder, text, probes or concept_probes())
    return caught.value.problems


def test_a_whole_file(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Rules, sinks and the model are read; a sink that no rule names is left out, and said."""
    with caplog.at_level(logging.WARNING, "daemon"):
        book = _load(tmp_path, WHOLE, concept_probes())
    assert [vars(record)["sink"] for record in caplog.records] == ["nobody"]
    car, night = book.rules
    assert (car.name, car.sinks, car.is_dry) == ("car_seen", ("stimulus", "gui"), False)
    assert (car.level.release, car.level.refractory_ns, car.level.dwell) == (0.6, 1_500_000_000, 2)
    assert car.level.straggler_ns == 0
    assert night.is_dry
    assert night.level.straggler_ns == STRAGGLER_NS
    assert isinstance(book.sinks["stimulus"], HttpSinkTable)
    assert isinstance(book.sinks["gui"], OpenEphysSinkTable)
    assert book.sinks["gui"].url == "http://127.0.0.1:37497"
    assert isinstance(book.sinks["pulse"], CommandSinkTable)
    assert book.sinks["pulse"].command == ("cat", "-u")
    assert set(book.sinks) == {"stimulus", "gui", "pulse"}
    assert book.likeness_model == "some/folder"


def test_a_byte_order_mark_is_passed_over(tmp_path: Path):
    """Some editors put one before the first table."""
    assert _load(tmp_path, f"\ufeff{WHOLE}", concept_probes()).rules


def test_dry_run_of_all(tmp_path: Path):
    """The setting makes every rule a dry one."""
    book = _load(tmp_path, WHOLE, concept_probes(), dry_run=True)
    assert all(rule.is_dry for rule in book.rules)


def test_every_mistake_is_said_at_once(tmp_path: Path):
    """Unknown keys, names, concepts and populations, bad numbers and bad grammar, each by name."""
    text = """
    [triggers.ok]
    when = 'probe "car" of all > 0.8'
    [triggers.a]
    when = 'probe "cra" of all > 0.8'
    release = 0.9
    [triggers.b]
    when = 'probe "car" of VSIp > 1.8 for 2 windows'
    sinks = ["plse", "broken"]
    [triggers.c]
    whenever = 'x'
    [triggers.d]
    when = 'narration of all says "dark"'
    release = 1
    [triggers.e]
    when = 'probe car of all > 1'
    refractory_s = -1
    [triggers.f]
    when = 'probe car of all > 1'
    [triggers."x y"]
    when = 'narration of all says "7"'
    [sinks.pulse]
    kind = "command"
    command = "no-such-program x"
    [sinks.broken]
    kind = "htp"
    [sinks.h]
    kind = "http"
    url = "localhost:1"
    timeout = 3
    [sniks]
    """
    said = "\n".join(_problems(tmp_path, text))
    for expected in (
        "triggers.c.when must be given",
        "Unknown key triggers.c.whenever",
        "(did you mean when?)",
        "triggers.e.refractory_s must be greater than or equal to 0, got -1",
        "triggers.e.when expected the concept in quotation marks, found 'car'",
        "sinks.pulse.command must name a program that is there and may be run, got 'no-such-prog",
        'sinks.broken must have kind = "http", "open_ephys", "command" or "osc"',
        "sinks.h.url must be http://HOST:PORT or https://HOST:PORT, got 'localhost:1'",
        "Unknown key sinks.h.timeout",
        "(did you mean timeout_s?)",
        "Unknown key sniks",
        "triggers.a.when names the concept 'cra', which the bundle has no probe for (did you mean "
        "car?). It has: car, dark, dog",
        "triggers.a.release must be at or below the threshold 0.8 of a rule with >, got 0.9",
        "triggers.b.sinks names 'plse', and there is no [sinks.plse] (did you mean pulse?)",
        "triggers.b.when names the population 'VSIp', which is not narrated (did you mean VISp?). "
        "There are all, VISp",
        "triggers.b.when must have a threshold between 0 and 1, a probability, got 1.8",
        "triggers.d.release has no meaning where a word is said or not",
        "triggers.f.when expected the concept in quotation marks, found 'car':\n"
        "      probe car of all > 1\n"
        "            ^",
        "triggers.x y must have a name of 1 to 64 letters, digits, _ or -",
        "triggers.x y.when must name a word of letters that a sentence can have, got '7'",
    ):
        assert expected in said
    assert "triggers.ok" not in said
    assert "'broken', and there" not in said


def test_a_bundle_without_probes_is_said(tmp_path: Path):
    """A rule on a probe names what is missing; a rule on narrations needs nothing."""
    path = tmp_path / "rules.toml"
    path.write_text("[triggers.a]\nwhen = 'probe \"car\" of all > 0.5'\n")
    with pytest.raises(SettingsError, match="asks for a concept probe, and the bundle has none"):
        load_rules(path, probes=None, populations=POPULATIONS)
    path.write_text("[triggers.a]\nwhen = 'narration of all says \"dark\"'\n")
    assert load_rules(path, probes=None, populations=POPULATIONS).rules


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must hold one rule or more"),
        ("[triggers]", "must hold one rule or more"),
        ("a = [", "is not TOML"),
        ("triggers = 3", "triggers must be"),
        ("[triggers]\na = 3", "triggers.a must be"),
        ("[triggers.a]\nwhen = 3", "triggers.a.when must be"),
        ("[triggers.a]\nwhen = 'probe \"car\" of all < 0.2'\nrelease = 0.1", "at or above"),
        ("[triggers.a]\nwhen = 'narration of all like \"x\" > 1'", "between -1 and 1, a cosine"),
        ("[triggers.a]\nwhen = 'probe \"car\" of all > 0'", "between 0 and 1"),
        (
            "[triggers.a]\nwhen = 'probe \"car\" of all > 0.5'\nrelease = -1",
            "triggers.a.release must be between 0 and 1, a probability, got -1",
        ),
        (
            "[triggers.a]\nwhen = 'probe \"car\" of all < 0.5'\nrelease = 7",
            "triggers.a.release must be between 0 and 1, a probability, got 7",
        ),
        (
            "[triggers.a]\nwhen = 'narration of all like \"x\" > 0.5'\nrelease = -5",
            "triggers.a.release must be between -1 and 1, a cosine, got -5",
        ),
        (
            "[triggers.a]\nwhen = 'narration of all says \"x\"'\nsinks = ['s', 's']\n"
            "[sinks.s]\nkind='http'\nurl='http://h/'",
            "triggers.a.sinks names 's' twice",
        ),
        ("\ufefftriggers = [", "is not TOML"),
        ("a = " + "[" * 20_000, "is not TOML: it nests too deep"),
        (
            "[triggers.a]\nwhen = 'narration of all says \"x\"'\n[sinks.s]\nkind='command'\n"
            'command=["cat", "a\\u0000"]',
            "sinks.s.command must not hold a NUL character, got 'a\\x00'",
        ),
        (
            "[triggers.a]\nwhen = 'narration of all says \"x\"'\n[sinks.s]\nkind='http'\n"
            'url="http://h/\\u0000"',
            "sinks.s.url must be",
        ),
        (
            "[triggers.a]\nwhen = 'narration of all says \"x\"'\n[sinks.s]\nkind='open_ephys'\n"
            "message='{score.real}'",
            "sinks.s.message may hold {name}",
        ),
        (
            "[triggers.a]\nwhen = 'narration of all says \"x\"'\n[sinks.s]\nkind='open_ephys'\n"
            "message='{score:q}'",
            "sinks.s.message may hold {name}",
        ),
        (
            "[triggers.a]\nwhen = 'narration of all says \"x\"'\n[sinks.s]\nkind='open_ephys'\n"
            "message='{score:d}'",
            "format of its kind, such as {score:.2f}, got '{score:d}', ValueError: Unknown format",
        ),
        (
            "[triggers.a]\nwhen = 'narration of all says \"x\"'\n[sinks.s]\nkind='open_ephys'\n"
            "message='{name:.3f}'",
            "sinks.s.message may hold {name}",
        ),
        (
            "[triggers.a]\nwhen = 'narration of all says \"x\"'\n[sinks.s]\nkind='http'\n"
            "url='http://h:99999/'",
            "sinks.s.url must be",
        ),
        (
            "[triggers.a]\nwhen = 'narration of all says \"x\"'\n[sinks.s]\nkind='http'\n"
            "url='http://me:secret@h/'",
            "sinks.s.url must not hold a name or a password, because URLs are logged; it got one (",
        ),
        (
            "[triggers.a]\nwhen = 'narration of all says \"x\"'\n[sinks.s]\nkind='command'\n"
            "command=[]",
            "sinks.s.command must name a program",
        ),
        (
            "[triggers.a]\nwhen = 'narration of all says \"x\"'\n[sinks.'a/b']\nkind='http'\n"
            "url='http://h/'",
            "sinks.a/b must have a name",
        ),
    ],
)
def test_what_else_is_refused(tmp_path: Path, text: str, said: str):
    """Files without rules, that are no TOML, or with values of another kind."""
    assert said in "\n".join(_problems(tmp_path, text))


def test_a_file_that_is_not_there_is_said(tmp_path: Path):
    """A missing file, and a folder in its place, are sentences."""
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(SettingsError, match=r"triggers\.rules"):
            load_rules(path, probes=None, populations=POPULATIONS)


CONFIDENT = """
[triggers.car_seen]
when = 'probe "car" of all > 0.5 and confidence > {}'
"""


def test_a_rule_may_ask_for_a_confidence(tmp_path):
    """Where the bundle can give one."""
    book = _load(tmp_path, CONFIDENT.format(0.7), concept_probes(), has_confidence=True)
    assert book.rules[0].condition.above_confidence == 0.7


def test_a_confidence_that_no_bundle_gives_is_refused(tmp_path):
    """At the start, and not by a rule that never fires."""
    (problem,) = _problems(tmp_path, CONFIDENT.format(0.7))
    assert "triggers.car_seen.when asks for a confidence" in problem
    assert "the bundle has no calibration of it" in problem


@pytest.mark.parametrize("above", ["0", "1", "-0.5", "70"])
def test_a_confidence_is_a_probability(tmp_path, above):
    """0 would let everything through, and 1 nothing."""
    with pytest.raises(SettingsError, match="confidence between 0 and 1, a probability, got"):
        _load(tmp_path, CONFIDENT.format(above), concept_probes(), has_confidence=True)
