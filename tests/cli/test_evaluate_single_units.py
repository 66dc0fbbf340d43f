"""``neurrate evaluate single-units``: cards that any browser opens, whatever units are called."""

from __future__ import annotations

import csv
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from contracts.population import Population
from encoder_training.data_set.prepared_files import load_prepared, write_prepared
from evaluation.narrations.sbert import word_salads
from neurrate.cli import main
from tests.support.captioned_bundle import captioned_set, write_captioned_bundle
from tests.support.sentence_models import write_tiny_bert

HOSTILE = '<script>alert(1)</script>"&'


class _Tags(HTMLParser):
    """Collects what a page holds."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attrs)
        self.links += [str(found[name]) for name in ("href", "src") if name in found]
        self.ids.add(found.get("id") or "")


@pytest.fixture(scope="module")
def results(tiny_llava, tmp_path_factory):
    """Return the folder of results about units with hostile names."""
    folder = tmp_path_factory.mktemp("units")
    prepared = captioned_set(tiny_llava)
    units = [
        replace(unit, unit_id=f"{HOSTILE}{row}", area=unit.area and f"<b>{unit.area}", depth_um=row)
        for row, unit in enumerate(prepared.population.units)
    ]
    units[0] = replace(units[0], unit_id="silent", probe="")
    write_prepared(folder / "data", replace(prepared, population=Population(units)))
    prepared = load_prepared(folder / "data")
    write_captioned_bundle(folder / "bundle", prepared)
    write_tiny_bert(folder / "bert", [*prepared.frames.captions, *word_salads(0)])
    words = [
        "evaluate", "single-units", str(folder / "bundle"), str(folder / "data"),
        "--out", str(folder / "out"), "--windows", "24", "--workers", "1", "--device", "cpu",
        "--sentence-model", str(folder / "bert"),
    ]  # fmt: skip
    assert main(words) == 0
    return folder / "out"


def _table(results, name):
    path = results / f"single-units-{name}.csv"
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_cards_hold_no_script_and_fetch_nothing(results):
    """Names are text, links stay within the page, and every card of the list is there."""
    page = (results / "single-units-cards.html").read_text(encoding="utf-8")
    tags = _Tags()
    tags.feed(page)
    assert not {"script", "b", "img", "link", "iframe"} & set(tags.tags)
    assert len(tags.links) == tags.tags.count("section") == 24
    assert all(link.startswith("#") and link[1:] in tags.ids for link in tags.links)
    assert "silent" in page
    assert len(page) < 3_000_000


def test_the_report_leads_to_the_cards(results):
    """The page of all questions links the cards and says that words of captions were taken."""
    page = (results / "report.html").read_text(encoding="utf-8")
    assert 'href="single-units-cards.html"' in page
    assert "words of the captions" in page
    assert HOSTILE not in page


def test_every_unit_is_ranked_with_its_null(results):
    """24 units have a lead with an interval, a null and p; a unit called silent is a unit."""
    rows = _table(results, "ranking")
    assert [int(row["rank"]) for row in rows] == list(range(1, 25))
    leads = [float(row["lead"]) for row in rows]
    assert leads == sorted(leads, reverse=True)
    assert all(0 < float(row["p"]) <= 1 for row in rows)
    assert {row["unit"] for row in rows} > {"silent"}
    groups = {row["group"]: row for row in _table(results, "groups")}
    assert float(groups["all"]["expected"]) == pytest.approx(1.2)
    assert groups["area:<b>CA1"]["units"] == "8"


def test_each_narrated_unit_has_its_words(results):
    """Information for each unit and statement; words with shares; a sentence for each window."""
    informed = _table(results, "information")
    assert {row["statement"] for row in informed} <= {"car", "dog", "tree", "street"}
    assert len({row["unit"] for row in informed}) == 24
    assert all(0 <= float(row["share"]) <= 1 for row in _table(results, "words"))
    assert len(_table(results, "sentences")) == 24 * 24
