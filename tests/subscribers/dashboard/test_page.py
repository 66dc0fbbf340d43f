"""The page in a real browser: what it shows, and that what comes from outside stays text."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from contracts.displays import pack_probes, pack_rates
from contracts.narration import NamedFeature, Stamps
from contracts.narration_wire import pack_narration
from contracts.population import Population, Unit
from contracts.source_json import pack_mark, pack_units
from contracts.spikes import Hello, Mark
from contracts.trigger import pack_trigger
from daemon.counters import Counters
from daemon.service.stats import StreamStats, stats_message
from subscribers.dashboard.rate_history import TILE_S
from tests.support.browser import AXE, SIZES
from tests.support.dashboards import FedDashboard, fed_dashboard, subscribe
from tests.support.displays import encoder_parts, manifest_of, probes, rates
from tests.support.narrations import narration
from tests.support.ramp_population import RUN
from tests.support.triggers import trigger

MANIFEST = manifest_of()
NAMES = ("all", "VISp", "LGd", "shuffled", "silent")
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


def narrated(
    seq: int,
    population: str = "all",
    text: str = "A red car drives along a bright street.",
    *,
    at_s: float | None = None,
    confidence: float | None = 0.9,
    features: tuple[NamedFeature, ...] | None = None,
    **changes: Any,
) -> list[bytes]:
    stop_s = 10.0 + seq / 2 if at_s is None else at_s
    one = narration(seq=seq, population=population, text=text)
    if features is not None:
        one = replace(one, utterance=replace(one.utterance, features=features))
    return pack_narration(
        replace(
            one,
            id=f"run-{population}-{seq}",
            window_start_s=stop_s - 0.25,
            window_stop_s=stop_s,
            frame_s=stop_s - 0.05,
            label=population,
            confidence=confidence,
            **changes,
        )
    )


def column(start_s: float, **changes: Any) -> list[bytes]:
    """Return the rates of a tenth of a second, of all units of `MANIFEST`."""
    rng = np.random.default_rng(round(start_s * 10))
    n_units = len(MANIFEST.population)
    values: dict[str, Any] = {
        "fingerprint": MANIFEST.population.fingerprint,
        "unit_counts": rng.poisson(1.0, n_units).tolist(),
        "populations_hz": dict.fromkeys(NAMES[:-1], 8.0) | {"silent": None},
    }
    return pack_rates(rates(start_s, **values | changes))


def statistics(**changes: Any) -> list[bytes]:
    counters = Counters()
    counters.windows = 20
    summary = {"p50": 21.0, "p95": 34.0, "p99": 55.0, "max": 89.0, "n": 20}
    stage_names = ("cut", "encode", "wait", "prefill", "decode", "publish", "total")
    values: dict[str, Any] = {
        "host_ns": 1,
        "uptime_s": 1.0,
        "session_s": 10.0,
        "counters": counters,
        "latency_ms": dict.fromkeys(stage_names, summary),
        "reasons": [],
        "streams": {"probeA": StreamStats(10.0, "live")},
        "queue": {"waiting": 0, "unfinished": 1},
    }
    return stats_message(**values | changes)


def mark(start_s: float, caption: str = "A red car drives.") -> list[bytes]:
    start_ns = round(start_s * 1e9)
    return pack_mark(Mark("probeA", RUN, start_ns, start_ns + 500_000_000, "street", 1, 3, caption))


def session(*, n: int = 6) -> list[list[bytes]]:
    """Return what a daemon sends in some seconds of a session."""
    sited = [
        replace(unit, depth_um=100.0 * row) for row, unit in enumerate(MANIFEST.population.units)
    ]
    messages = [
        encoder_parts(MANIFEST, NAMES),
        pack_units(Hello("probeA", RUN, "nwb:715093703", Population(sited))),
        statistics(),
    ]
    for seq in range(n):
        stop_s = 10.0 + seq / 2
        messages += [mark(stop_s - 0.3, f"A red car drives, {seq // 2}.")]
        messages += [column(stop_s - 0.5 + part / 10) for part in range(5)]
        messages += [narrated(seq, name) for name in NAMES[:3]]
        messages += [narrated(seq, name, "A tree.", confidence=0.2) for name in NAMES[3:]]
        messages += [pack_probes(probes(stop_s))]
    return messages


@pytest.fixture
def dashboard(context):
    with fed_dashboard(context) as dashboard:
        dashboard.publish(*session())
        yield dashboard


def address(dashboard: FedDashboard, fragment: str = "") -> str:
    return f"{dashboard.server.address}{fragment}"


def shows(page: Any, selector: str, text: str) -> None:
    """Wait until an element holds a text."""
    page.wait_for_function(
        "([selector, text]) => [...document.querySelectorAll(selector)]"
        ".some((one) => !one.closest('[hidden]') && one.textContent.includes(text))",
        arg=[selector, text],
    )


def test_narrations_appear_beside_their_controls(dashboard, open_page):
    """At once; the newest largest, both controls beside it, and unsure ones dimmed."""
    page = open_page(address(dashboard))
    shows(page, "#lead .sentence", "A red car drives")
    dashboard.publish(narrated(6, "all", "A dog walks under a tree."))
    shows(page, "#lead .sentence", "A dog walks under a tree.")
    shows(page, "#lead .older", "A red car drives")
    titles = page.locator("#controls .card .title").all_inner_texts()
    assert titles == ["shuffled", "silent"]
    assert page.locator("#controls .card.is-unsure").count() == 2
    shows(page, "#controls .confidence", "confidence 0.20, unsure")
    sizes = page.evaluate(
        "['#lead .sentence', '#populations .sentence', '#lead .older li'].map((one) =>"
        " parseFloat(getComputedStyle(document.querySelector(one)).fontSize))"
    )
    assert sizes == sorted(sizes, reverse=True)
    assert page.locator("#picker input[disabled]").count() == 3  # the one in front, two controls


def test_features_that_stand_out_are_below_the_sentence(dashboard, open_page):
    """By name and height, in every card that has some; a hostile name is text."""
    page = open_page(address(dashboard))
    shows(page, "#lead .sentence", "A red car drives")
    assert page.locator(".features:visible").count() == 0
    found = (NamedFeature(7, "night", 2.34), NamedFeature(3, HOSTILE, 0.61))
    dashboard.publish(narrated(6, "all", "A dark street.", features=found), narrated(6, "VISp"))
    shows(page, "#lead .features", "night +2.3 sd")
    assert page.locator(".features:visible").count() == 1
    line = page.locator("#lead .features")
    assert line.locator(".feature").count() == 2
    assert HOSTILE in line.inner_text()
    assert page.title() != "owned"
    dashboard.publish(narrated(7, "all", "A street.", features=()))
    page.wait_for_function("() => document.querySelector('#lead .features').hidden")


def test_a_missing_control_is_said(context, open_page):
    """With what to do about it."""
    with fed_dashboard(context) as dashboard:
        dashboard.publish(encoder_parts(MANIFEST, ("all",)), narrated(0))
        page = open_page(address(dashboard))
        shows(page, "#controls .absent", "shuffled: not narrated. Add it to --populations.")


def test_the_caption_shown_stands_above_the_sentence(dashboard, open_page):
    """That of the moment that it describes, and the score beside chance."""
    page = open_page(address(dashboard))
    shows(page, ".truth-line", "A red car drives, 2.")
    shows(page, "#frame-text", "on the screen: street, frame 3")
    shows(page, "#lead .score", "F1")
    assert "shuffled" in page.locator("#lead .score").get_attribute("title")


def test_age_grows_when_nothing_comes(dashboard, open_page):
    """Whether narrator or daemon stopped; in the end it is marked."""
    page = open_page(address(dashboard))
    shows(page, "#lead .age", "old")

    def age() -> float:
        return float(re.findall(r"[\d.]+", page.locator("#lead .age").inner_text())[0])

    first = age()
    page.wait_for_function(
        "(first) => parseFloat(document.querySelector('#lead .age').textContent) > first + 1",
        arg=first,
    )
    page.wait_for_selector("#lead .age.is-old")


def test_problems_are_said_in_the_words_of_the_daemon(dashboard, open_page):
    """A silent probe, a gap, losses: where everybody looks, and in the panel."""
    page = open_page(address(dashboard))
    shows(page, "#state", "ready")
    reason = "streams: silent for too long: probeA"
    counters = Counters()
    counters.gap_bins, counters.batches_lost = 7, 3
    dashboard.publish(
        statistics(
            reasons=[reason], counters=counters, streams={"probeA": StreamStats(9.0, "blind")}
        ),
        narrated(7, n_gap_bins=7, blind_streams=("probeA",)),
        column(13.0, n_gap_bins=4),
    )
    shows(page, "#problems", reason)
    shows(page, "#state", "not ready")
    shows(page, "#streams .is-problem", "blind")
    shows(page, "#counts .is-problem", "7")
    shows(page, "#lead .flaw", "7 gap bins, blind: probeA")
    page.wait_for_function("() => window.neurrate.store.gaps.length === 1")


def test_a_daemon_that_stops_is_noticed(dashboard, open_page):
    """In the words of ``neurrate watch``."""
    page = open_page(address(dashboard))
    shows(page, "#problems", f"{dashboard.publisher.address} has been silent for")


def test_triggers_and_probes_are_kept(dashboard, open_page):
    """Each trigger once, and a point of the trace for each message of the probes."""
    page = open_page(address(dashboard))
    fired = trigger(seq=0)
    dashboard.publish(pack_trigger(replace(fired, window=replace(fired.window, stop_s=12.4))))
    page.wait_for_function("() => window.neurrate.store.triggers.length === 1")
    page.wait_for_function("() => window.neurrate.store.probes.get('car_seen')?.points.length >= 1")


def test_the_units_are_drawn_by_area_and_depth(dashboard, open_page):
    """Their levels are those of the tile, in the order of areas."""
    page = open_page(address(dashboard))
    page.wait_for_function("() => window.neurrate.store.tiles.groups.length === 3")
    groups = page.evaluate("window.neurrate.store.tiles.groups.map((one) => [one.name, one.n])")
    assert groups == [["CA1", 4], ["LGd", 4], ["VISp", 4]]
    order = page.evaluate("window.neurrate.store.tiles.order")
    areas = [MANIFEST.population.units[row].area for row in order]
    assert areas == sorted(areas)
    label = page.locator("#timeline").get_attribute("aria-label")
    shows(page, "#activity-hint", "12 units by area (3) and depth")
    assert label


def test_latency_and_facts_are_shown(dashboard, open_page):
    """Six stages that sum to the whole, percentiles, what decodes."""
    page = open_page(address(dashboard))
    shows(page, "#percentile-values", "p99")
    shows(page, "#percentile-values", "55 ms")
    assert page.locator("#waterfall li").count() == 6
    shows(page, "#facts", "nwb:715093703")
    shows(page, "#facts", "0" * 12)
    shows(page, "#facts", "50 ms")
    page.wait_for_selector("#percentiles canvas")


def test_history_is_kept_over_a_restart_of_the_daemon(context, open_page):
    """The page goes on by itself, and what was before can be gone back to."""
    with fed_dashboard(context) as dashboard:
        dashboard.publish(*session())
        page = open_page(address(dashboard))
        shows(page, "#lead .sentence", "A red car drives")
        endpoint = dashboard.publisher.address
        dashboard.publisher.close()
        shows(page, "#problems", "silent")
        with fed_dashboard(context, publish=endpoint) as again:
            subscribe(again.publisher)
            dashboard.publisher = again.publisher
            dashboard.publish(statistics(), narrated(40, "all", "After the restart."), column(30.0))
            shows(page, "#lead .sentence", "After the restart.")
            page.keyboard.press("Home")
            shows(page, "#moment", "not live")
            shows(page, "#lead .sentence", "A red car drives")
            page.keyboard.press("End")
            shows(page, "#lead .sentence", "After the restart.")


def test_a_link_opens_a_moment(dashboard, open_page):
    """With the session time, the population in front, and those that are hidden."""
    page = open_page(address(dashboard, "#t=11.1&lead=VISp&hide=LGd"))
    shows(page, "#moment", "Session 0:11.1, not live.")
    shows(page, "#lead .title", "VISp")
    shows(page, ".truth-line", "A red car drives, 1.")
    assert page.locator("#populations .title").all_inner_texts() == ["all"]
    page.click("#live")
    page.wait_for_selector("#moment", state="hidden")
    assert "t=" not in page.url
    assert page.evaluate("window.neurrate.view.link()").endswith("&lead=VISp&hide=LGd")


def test_what_differs_is_marked(dashboard, open_page):
    """Words that the sentence in front has not; below it, earlier showings of the same."""
    first, between, again = 20.0, 21.0, 22.0
    for at_s, caption in ((first, "A bus."), (between, "A tree."), (again, "A bus.")):
        dashboard.publish(mark(at_s - 0.3, caption))
        seq = round(at_s)
        dashboard.publish(narrated(seq, "all", f"A blue bus at {seq}, left.", at_s=at_s))
    dashboard.publish(narrated(22, "VISp", "A red bus at 22, <b>left</b>.", at_s=again))
    page = open_page(address(dashboard))
    shows(page, "#lead .sentence", "A blue bus at 22, left.")
    assert page.locator("mark").count() == 0
    page.keyboard.press("d")
    shows(page, "#populations mark", "red")
    marked = page.locator("#populations .card", has_text="VISp").locator("mark")
    assert marked.all_inner_texts() == ["red", "<b>left</b>."]
    assert page.locator("#lead .sentence mark").count() == 0
    assert page.locator("#lead .showing").all_inner_texts() == ["0:20.0 A blue bus at 20, left."]
    assert page.locator("#lead .showing mark").all_inner_texts() == ["20,"]
    assert page.locator("#compare").get_attribute("aria-pressed") == "true"
    page.reload()
    shows(page, "#lead .showing", "A blue bus at 20")
    page.click("#compare")
    page.wait_for_function("() => !document.querySelector('mark')")


def test_an_hour_can_be_scrolled(dashboard, open_page):
    """Every tile of the hour is shown; a frame draws a few pictures, however far back."""
    state, loop = dashboard.server.state, dashboard.server._loop
    rng = np.random.default_rng(0)

    def fill() -> None:
        assert state.rates is not None
        n_rows = state.rates.n_rows
        for tenth in range(0, 36_000, 4):
            levels = rng.integers(0, 120, n_rows).astype(np.uint8)
            state.rates.add(20 + tenth / 10, 20 + (tenth + 4) / 10, levels)

    loop.call_soon_threadsafe(fill)
    # In steps: a leap of more than ten minutes is another part of a recording.
    steps = [column(float(at_s)) for at_s in range(500, 3600, 500)]
    dashboard.publish(*steps, column(3620.0), narrated(7300, at_s=3620.1))
    page = open_page(address(dashboard))
    shows(page, "#clock", "1:00:20")
    page.click("[data-span='600']")
    page.keyboard.press("Home")
    shows(page, "#moment", "not live")
    for _ in range(8):
        page.keyboard.press("PageDown")
    page.wait_for_function(
        "() => { const { store, view } = window.neurrate;"
        f" const number = Math.floor((view.edge - 100) / {TILE_S:.0f});"
        " const tile = store.tiles.tiles.get(`full ${number}`);"
        " return tile && tile.levels.some((level) => level !== 255); }"
    )
    page.click("[data-span='3600']")
    page.wait_for_function(
        "() => [...window.neurrate.store.tiles.tiles.values()]"
        ".filter((one) => one.kind === 'overview' && one.levels.some((level) => level !== 255))"
        ".length > 50"
    )


def test_hostile_texts_are_shown_as_texts(context, open_page):
    """Narrations, labels, captions, units, areas, sources, reasons: none is markup."""
    with fed_dashboard(context) as dashboard:
        units = [Unit(f"{HOSTILE}{row}", area=HOSTILE) for row in range(3)]
        manifest = manifest_of(units)
        hostile = narration(seq=3, text=HOSTILE)
        dashboard.publish(
            encoder_parts(manifest, ("all", "shuffled", "silent")),
            pack_units(Hello("probeA", RUN, HOSTILE, Population(units))),
            mark(0.0, HOSTILE),
            pack_narration(replace(hostile, label=HOSTILE, frame_s=0.2, blind_streams=(HOSTILE,))),
            statistics(
                reasons=[HOSTILE], notes=[HOSTILE], streams={HOSTILE: StreamStats(1.0, "blind")}
            ),
            column(1.0, unit_counts=[1, 2, 3], fingerprint=manifest.population.fingerprint),
        )
        page = open_page(address(dashboard, f"#lead={HOSTILE}&hide={HOSTILE}"))
        shows(page, "#problems", "<script>")
        shows(page, "#lead .sentence", "<img")
        shows(page, "#streams", "<script>")
        shows(page, "#facts", "onerror")
        assert page.title() == "Neurrate"
        assert page.locator("img").count() == 1
        assert page.locator("script").count() == 1


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_axe_finds_nothing_serious(dashboard, open_page, theme):
    """Names, roles, contrasts, order: also with a problem, a moment and the picker open."""
    if not AXE.is_file():
        pytest.skip("no axe-core: scripts/install-servers installs it with npm")
    page = open_page(address(dashboard), theme=theme, bypass_csp=True)
    shows(page, "#lead .sentence", "A red car drives")
    dashboard.publish(statistics(reasons=["narrator: it has stopped"]))
    shows(page, "#problems", "it has stopped")
    page.keyboard.press("p")
    page.keyboard.press("Space")
    # As text: for a path, Playwright starts a thread that stays.
    page.add_script_tag(content=AXE.read_text(encoding="utf-8"))
    results = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    found = {
        one["id"]: [node["html"][:200] for node in one["nodes"]]
        for one in results["violations"]
        if one["impact"] in {"serious", "critical"}
    }
    assert found == {}


def test_everything_can_be_done_with_keys(dashboard, open_page):
    """Tab reaches every button in order; each key does what the list says."""
    page = open_page(address(dashboard))
    shows(page, "#lead .sentence", "A red car drives")
    reached = []
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("document.activeElement.id || document.activeElement.className")
        )
    assert reached[:6] == ["skip", "live", "pick", "compare", "share", "theme"]
    assert "timeline" in reached
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Space")
    shows(page, "#moment", "not live")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Space")
    page.wait_for_selector("#moment", state="hidden")
    page.keyboard.press("n")
    shows(page, "#lead .title", "VISp")
    page.keyboard.press("-")
    assert page.locator("[data-span='600']").get_attribute("aria-pressed") == "true"
    page.keyboard.press("t")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    page.keyboard.press("p")
    page.locator("#picker label", has_text="LGd").locator("input").uncheck()
    page.wait_for_function(
        "() => ![...document.querySelectorAll('#populations .title')]"
        ".some((one) => one.textContent === 'LGd')"
    )
    page.keyboard.press("Escape")
    assert page.locator("#picker").is_hidden()
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#keys").is_visible()


@pytest.mark.parametrize("size", SIZES)
def test_it_fits_every_screen(dashboard, open_page, size):
    """Nothing is cut off at the side; sentence and controls are on the first screen or near it."""
    page = open_page(address(dashboard), size=size)
    shows(page, "#lead .sentence", "A red car drives")
    width, height = SIZES[size]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    top = page.locator("#lead .sentence").bounding_box()
    controls = page.locator("#controls").bounding_box()
    assert top["y"] + top["height"] < height
    assert controls["y"] < (height if size != "phone" else 2 * height)
    letters = page.evaluate(
        "parseFloat(getComputedStyle(document.querySelector('#lead .sentence')).fontSize)"
    )
    assert letters >= {"desktop": 40, "projector": 55, "phone": 28}[size]


def test_stamps_are_what_the_latency_panel_sums(dashboard, open_page):
    """The whole is the sum of the stages that are shown."""
    page = open_page(address(dashboard))
    shows(page, "#latency-total", "ms")
    newest = page.evaluate("window.neurrate.store.upTo('all', Infinity, 1)[0].latency_ms")
    total = newest.pop("total")
    assert sum(newest.values()) == pytest.approx(total, abs=0.1)
    assert set(newest) < {*Stamps.__dataclass_fields__, *newest}
    assert json.dumps(newest)
