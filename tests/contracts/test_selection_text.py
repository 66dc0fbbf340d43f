"""Names in expressions that select units, and names in topics."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import UserError
from contracts.population import Population, Unit
from contracts.selection_text import (
    label_of,
    named,
    read_expression,
    read_name,
    shown,
    split_ids,
    split_names,
    topic_names,
)
from contracts.toml import parse_toml, toml_string
from stream_sources.recordings.unit_filter import UnitTable, choose_units

HOSTILE = (
    "Primary visual area, layer 2/3", "Süd", "視覚野", "🧠", "a\nb\x1b[31m", '"q"|x', "all",
    "shuffled", "area:VISp", "[red]x[/red]", "[/]", "$x_$", " blank ", "back\\slash", "\u202eabc",
    "\x7f", "a|b", "ids:1", "it's", "{x}", "%s", "\ud800",
)  # fmt: skip

NAMES = st.text(st.characters(), min_size=1, max_size=20) | st.sampled_from(HOSTILE)
TOPIC = re.compile(r"[A-Za-z0-9_-]{1,64}")


@given(NAMES)
def test_every_name_can_be_typed(name: str) -> None:
    """Its form for expressions is printable and is read back as the name."""
    assert read_name(named(name)) == name
    assert named(name).isprintable()
    assert shown(name).isprintable()


@given(st.lists(NAMES, min_size=1, max_size=5, unique=True))
def test_every_name_selects_its_units_and_no_others(names: list[str]) -> None:
    """In ``--populations``, in settings files and in ``--units``, whatever the name holds."""
    units = [Unit(str(row), "", name) for row, name in enumerate(names)]
    population = Population([*units, Unit("other", "p", "elsewhere!")])
    populations = topic_names(split_names(",".join(map(named, names)), ","))
    assert all(TOPIC.fullmatch(topic) for topic in populations)
    assert len(populations) == len(names)
    for row, (topic, expression) in enumerate(populations.items()):
        in_file = parse_toml(f"value = {toml_string(expression)}")["value"]
        for text in (in_file, f"area:{named(names[row])}"):
            selection = population.select(topic, text)
            assert np.flatnonzero(selection.mask).tolist() == [row]
    table = UnitTable(population.units, {})
    for row, name in enumerate(names):
        rows = choose_units(table, f"all,area:{named(name)}|{named('elsewhere!')}", None, path="x")
        assert rows.tolist() == [row, len(names)]


@pytest.mark.parametrize(
    ("expression", "meaning"),
    [
        ("VISp", ("", ("VISp",))),
        ("area:Primary visual area, layer 2/3", ("area", ("Primary visual area, layer 2/3",))),
        ("area:a|b", ("area", ("a|b",))),
        ('area:a"b"', ("area", ('a"b"',))),
        ('foo:"bar', ("", ('foo:"bar',))),
        ("ids:1, 2|3", ("ids", ("1", "2", "3"))),
        ('area:"a|b"|"c, d"', ("area", ("a|b", "c, d"))),
        ('ids:"a,b",c', ("ids", ("a,b", "c"))),
    ],
)
def test_old_expressions_mean_what_they_meant(
    expression: str, meaning: tuple[str, tuple[str, ...]]
) -> None:
    """A quotation mark counts only where a name begins with it."""
    assert read_expression(expression) == meaning


@pytest.mark.parametrize("text", ['area:"VISp', '"a"b', 'area:"a" b', r'"\x"', '"'])
def test_a_quoted_name_without_an_end_is_refused(text: str) -> None:
    """The message explains how to write a quotation mark in a name."""
    with pytest.raises(UserError, match="a name in quotation marks"):
        Population([Unit("1", area="VISp")]).select(text)


def test_ids_may_be_quoted() -> None:
    """An id with a separator is one id."""
    assert split_ids('"1,2"|3, 4') == ["1,2", "3", "4"]


def test_topics_stay_what_they_were() -> None:
    """Names that older versions could derive are still derived alike."""
    expressions = ["all", "VISp", "area:VISp", "ids:1|2|3", "cell_type:PV", "silent"]
    assert list(topic_names(expressions)) == [
        "all", "VISp", "area_VISp", "ids_1_2_3", "cell_type_PV", "silent"
    ]  # fmt: skip


def test_areas_that_slug_alike_stay_apart() -> None:
    """Each has a topic, which does not depend on their order, and a label of its own."""
    alike = ["a b", "a_b", "a.b", "ä b"]
    topics = topic_names(alike)
    assert len(topics) == 4
    assert topics["a_b"] == "a_b"
    assert set(topic_names(alike[::-1])) >= {"a_b"}
    assert [label_of(*item) for item in topics.items()] == alike


def test_long_names_stay_apart() -> None:
    """Topics have 64 letters, and two names with the same beginning differ."""
    topics = list(topic_names(["x" * 70 + "1", "x" * 70 + "2"]))
    assert [len(topic) for topic in topics] == [64, 64]
    assert topics[0] != topics[1]


def test_a_quoted_keyword_is_no_keyword() -> None:
    """An area may be called "all"; its topic is not that of all units."""
    population = Population([Unit("1", area="all"), Unit("2", area="VISp")])
    (topic,) = topic_names(['"all"'])
    assert topic != "all"
    assert population.select(topic, '"all"').n_units == 1
    assert population.select("all").n_units == 2


def test_a_given_name_is_the_label() -> None:
    """Only a derived name is displayed as what it was derived from."""
    population = Population([Unit("1", area="Süd")])
    assert population.select("south", "area:Süd").label == "south"
    assert population.select("Sud", "Süd").label == "Süd"
    assert population.select("Sud", 'area:"Süd"').label == "Süd"
    assert population.select("all").label == "all"


def test_choices_are_listed_as_they_are_typed() -> None:
    """Names in the message can be copied, and contain no control characters."""
    population = Population([Unit("1", area="a, b"), Unit("2", area="c\x1b[2J")])
    with pytest.raises(UserError, match=r'areas "a, b", "c\\u001b\[2J"'):
        population.select("nowhere")


@given(st.text(st.characters(codec="utf-8")))
def test_a_text_is_written_as_toml(text: str) -> None:
    """Any text comes back from the string that is written for it."""
    assert parse_toml(f"value = {toml_string(text)}") == {"value": text}
