"""The page on triggers is held to the code: its files of rules, its tables, its walk-through."""

import json
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from contracts.trigger import STAGE_OF_STAMP
from daemon.triggers.crossing import Crossing, Level
from daemon.triggers.rule_file import load_rules
from daemon.triggers.tables import (
    MESSAGE_FIELDS,
    CommandSinkTable,
    HttpSinkTable,
    OpenEphysSinkTable,
    OscSinkTable,
    RuleTable,
)
from tests.support.triggers import concept_probes, make_checkout

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "triggers.md").read_text(encoding="utf-8")
SCHEMA = json.loads((DOCS / "schemas" / "trigger.schema.json").read_text(encoding="utf-8"))


def _rows(heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading."""
    below = PAGE.partition(f"\n{heading}\n")[2]
    table = re.search(r"(?:^\|.*\n)+", below, re.MULTILINE)
    assert table
    lines = table[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def _named(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


@pytest.mark.parametrize("text", re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL))
def test_every_example_is_a_file_of_rules(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """What a reader copies from the page is taken as it stands, where the repository is."""
    make_checkout(tmp_path)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "rules.toml"
    path.write_text(text)
    populations = {"all": "all", "VISp": "area:VISp", "CA1": "area:CA1"}
    probes = concept_probes()
    book = load_rules(path, probes=probes, populations=populations, has_confidence=True)
    assert book.rules


def test_the_keys_are_those_of_the_code():
    """Every key of a rule and of a sink has its row, and no other has."""
    rule_keys = {_named(row[0])[0] for row in _rows("## Rules")}
    assert rule_keys == set(RuleTable.model_fields)
    sinks: dict[str, type[BaseModel]] = {
        "http": HttpSinkTable,
        "open_ephys": OpenEphysSinkTable,
        "command": CommandSinkTable,
        "osc": OscSinkTable,
    }
    described = {_named(row[0])[0]: row[1] for row in _rows("## Sinks")}
    for kind, table in sinks.items():
        keys = {key for key, of in described.items() if of == "all" or kind in _named(of)}
        assert keys == set(table.model_fields)
    message = next(row for row in _rows("## Sinks") if row[0] == "`message`")
    assert [name.strip("{}") for name in _named(message[2])[:8]] == list(MESSAGE_FIELDS)


def test_the_fields_are_those_of_the_schema():
    """Every field of a message has its row."""
    named = [name for row in _rows("## The message") for name in _named(row[0])]
    assert named == [name for name in named if name in SCHEMA["properties"]]
    assert set(named) == set(SCHEMA["properties"])


def test_the_stages_are_those_of_the_code():
    """Each stage stands beside the stamp that ends it."""
    rows = _rows("### What the latency means")
    pairs = [
        (stamp, stage)
        for row in rows
        for stage, stamp in zip(_named(row[0]), _named(row[1]), strict=True)
    ]
    assert dict(pairs) == STAGE_OF_STAMP


def test_the_walk_through_is_what_happens():
    """The rule of the page fires at the windows that the page says."""
    crossing = Crossing(Level(True, 0.8, 0.6, 2, 10**9))
    for when, score, said in _rows("### When a rule fires"):
        fires = crossing.take(float(score), round(float(when.split()[0]) * 1e9))
        assert fires == ("trigger" in said), when
