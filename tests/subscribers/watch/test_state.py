"""What a watcher knows and how it is drawn, without a socket."""

import io
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from contracts.narration import STAGES, PartialNarration, Status
from contracts.narration_wire import as_repeat, pack_narration, pack_partial
from contracts.trigger import pack_trigger
from daemon.counters import Counters
from daemon.service.stats import StreamStats, stats_message
from subscribers.listener import MessageReader
from subscribers.watch.bars import BAR_CELLS, STAGE_LETTERS, latency_bar
from subscribers.watch.state import N_SHOWN, ReceivedNarration, WatchState
from subscribers.watch.view import draw
from tests.support.narrations import narration, narrations
from tests.support.triggers import trigger, triggers
from tests.support.watching import take

S = 1_000_000_000

NAMES = ("all", "CA1", "LGd", "VISl", "VISp", "shuffled", "silent")
"""In the order in which they are drawn."""


@pytest.fixture
def state():
    return WatchState("tcp://127.0.0.1:5571", started_ns=0)


@pytest.fixture
def busy(state):
    """Return a state with a full history of long sentences from seven populations."""
    take(state, _stats(reasons=["narrator: loading"]), host_ns=S)
    for seq in range(N_SHOWN):
        for name in sorted(NAMES):
            said = narration(seq=seq, population=name, text=f"A car {seq} turns left. " * 9)
            take(state, pack_narration(said), host_ns=S)
    return state


def _drawn(
    state: WatchState, host_ns: int = 0, *, height: int | None = None, width: int = 160
) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(draw(state, host_ns, height))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_label_is_shown_in_place_of_the_name(state):
    """What is drawn is the name in the recording; the topic's name stays the key."""
    said = replace(narration(population="Sud"), label="Süd [red]\x1b[2J")
    received = take(state, pack_narration(said))
    assert received is not None
    assert "  Süd [red]\\u001b[2J: A car" in received.line
    assert state.names == ["Sud"]
    for height in (None, 8, 4):
        assert "Süd [red]\\u001b[2J" in _drawn(state, height=height)


def _stats(**changes) -> list[bytes]:
    counters = Counters()
    counters.windows_dropped["narrator_busy"] = 7
    counters.gap_bins = 3
    values = {
        "host_ns": 1,
        "uptime_s": 1.0,
        "session_s": 1.0,
        "counters": counters,
        "latency_ms": {"total": {"p95": 123.0}},
        "reasons": [],
        "streams": {"probeA": StreamStats(1.0, "live"), "probeB": StreamStats(1.0, "blind")},
        "queue": {"waiting": 0, "unfinished": 1},
    }
    return stats_message(**{**values, **changes})


def test_the_newest_stands_on_top(state):
    """Each population has its newest words first, and a few older ones."""
    for seq in range(N_SHOWN + 2):
        take(state, pack_narration(narration(seq=seq, text=f"words {seq}")), host_ns=S)
    shown = _drawn(state, S)
    assert shown.index("words 5") < shown.index("words 4") < shown.index("words 3")
    assert "words 1" not in shown
    assert state.n_received == {"all": N_SHOWN + 2}


def test_a_repeat_is_passed_over(state):
    """The last value that a newcomer causes is not counted again."""
    topic, payload = pack_narration(narration())
    reader = MessageReader()
    assert take(state, [topic, payload], reader=reader) is not None
    assert take(state, [topic, as_repeat(payload)], reader=reader) is None
    assert state.n_received == {"all": 1}


def test_the_header_shows_drops_blind_streams_and_gaps(state):
    """What a person must know of the daemon stands in the first line."""
    take(state, _stats(reasons=["narrator: loading"]), host_ns=S)
    shown = _drawn(state, S)
    for said in ("not ready", "narrator: loading", "probeB blind", "7 dropped (narrator_busy)"):
        assert said in shown
    assert "3 gap bins" in shown
    assert "p95 123 ms" in shown


def test_failed_and_incomplete_narrations_say_so(state):
    """A narration that failed shows its reason; gaps and blind streams are named."""
    failed = narration(text="", status=Status.FAILED, n_gap_bins=2, blind_streams=("probeB",))
    heard = take(state, pack_narration(failed), host_ns=S)
    assert isinstance(heard, ReceivedNarration)
    assert heard.line == ("0.250 s  all: [because]  (60 ms; failed; 2 gap bins; blind probeB)")
    assert "2 gap bins  blind: probeB" in _drawn(state, S)


def test_units_that_no_source_sends_are_named(state):
    """A narration that does without some of its units says how many, as a line and in the view."""
    lacking = replace(narration(), n_missing_units=7)
    received = take(state, pack_narration(lacking), host_ns=S)
    assert isinstance(received, ReceivedNarration)
    assert received.line.endswith("(60 ms; 7 units missing)")
    assert "7 units missing" in _drawn(state, S)


@pytest.mark.parametrize("height", [24, 50])
def test_every_population_fits_the_terminal(busy, height):
    """Names, newest words and legend are all there, however low the terminal."""
    shown = _drawn(busy, S, height=height, width=80)
    at = [shown.index(name) for name in NAMES]
    assert at == sorted(at)
    assert shown.count("A car 3") >= len(NAMES)
    assert all(f"{STAGE_LETTERS[stage]} {stage}" in shown for stage in STAGES)
    assert len(shown.splitlines()) <= height
    assert "more" not in shown


def test_history_goes_before_the_panels_do(state):
    """In a lower terminal the panels hold fewer older words, then there are no panels."""
    for seq in range(N_SHOWN):
        take(state, pack_narration(narration(seq=seq, text=f"words {seq}")), host_ns=S)
    full = _drawn(state, S)
    n_lines = len(full.splitlines())
    assert _drawn(state, S, height=n_lines) == full
    fewer = _drawn(state, S, height=n_lines - 1)
    assert "words 1" in fewer
    assert "words 0" not in fewer
    flat = _drawn(state, S, height=n_lines - N_SHOWN)
    assert "words 3" in flat
    assert "╭" in fewer
    assert "╭" not in flat


def test_long_sentences_end_in_an_ellipsis_without_panels(busy):
    """Without panels a sentence that is too long is cut, and says so."""
    assert _drawn(busy, S, height=24, width=80).count("…") == len(NAMES)


def test_populations_that_do_not_fit_are_counted(busy):
    """When even one line each is too much the last line says how many are missing."""
    shown = _drawn(busy, S, height=10, width=80).splitlines()
    n_shown = sum(any(line.startswith(f"{name} ") for line in shown) for name in NAMES)
    assert len(shown) == 10
    assert 0 < n_shown < len(NAMES)
    assert shown[-1] == f"+{len(NAMES) - n_shown} more populations; make the window taller"


@pytest.mark.parametrize("width", [20, 80, 160])
def test_no_view_is_taller_than_the_terminal(busy, width):
    """Whatever the size of the terminal, nothing is drawn below its edge."""
    for height in (*range(1, 25), 40, 59):
        assert len(_drawn(busy, 30 * S, height=height, width=width).splitlines()) <= height


def test_a_low_terminal_without_populations_counts_none(state):
    """Where nothing was heard yet, nothing is said to be missing."""
    take(state, _stats(reasons=[f"reason {i}" for i in range(9)]), host_ns=S)
    shown = _drawn(state, S, height=4)
    assert len(shown.splitlines()) == 4
    assert "more" not in shown


def test_a_silent_daemon_is_not_called_ready(state):
    """What the daemon last said of itself does not outlive its silence."""
    take(state, _stats(), host_ns=S)
    assert "5571  ready" in _drawn(state, 2 * S)
    shown = _drawn(state, 24 * S)
    assert "5571  silent for 23 s  probeA live" in shown
    assert "ready" not in shown


def test_waiting_is_explained(state):
    """While nothing comes the notice says for how long, and what to check."""
    assert state.notice(S) == "waiting for tcp://127.0.0.1:5571"
    assert state.notice(6 * S) == (
        "waiting for tcp://127.0.0.1:5571: no message for 6 s; is `neurrate run` up?"
    )
    take(state, _stats(), host_ns=7 * S)
    assert state.notice(8 * S) == ""
    assert "has been silent for 6 s" in _drawn(state, 13 * S)


def test_words_cannot_steer_the_terminal(state):
    """Control characters and markup in a narration are only shown."""
    text = "\x1b[2Jclear\n[bold]x[/bold]"
    heard = take(state, pack_narration(narration(text=text)), host_ns=S)
    assert isinstance(heard, ReceivedNarration)
    assert heard.text == "[2Jclear [bold]x[/bold]"
    assert "[bold]x[/bold]" in _drawn(state, S)


@pytest.mark.parametrize(
    "parts",
    [
        [b"stats"],
        [b"stats", b"{}"],
        [b"stats", b"[]"],
        [b"stats", b'{"counters": 3, "latency_ms": {}}'],
        [b"narration.all", b"\xff"],
        [b"narration.all", b'{"version": 9}'],
        [b"narration.all", b"{}", b""],
    ],
)
def test_unreadable_messages_are_counted(state, parts):
    """What cannot be read is counted, shown, and stops nothing."""
    assert take(state, parts, host_ns=S) is None
    assert state.n_unreadable == 1
    assert "1 unreadable messages" in _drawn(state, S)


@given(st.sampled_from(["window", "host_ns", "status", "id", "text"]), st.none() | st.text())
def test_a_field_of_another_type_is_unreadable_or_shown(key, value):
    """A sender that breaks the format cannot break the view."""
    state = WatchState("x", started_ns=0)
    topic, payload = pack_narration(narration())
    broken = json.dumps({**json.loads(payload), key: value}).encode()
    take(state, [topic, broken], host_ns=S)
    _drawn(state, S)


@given(narrations())
def test_any_narration_can_be_drawn(said):
    """Whatever is legal is drawn, and its bar is as wide as every other."""
    state = WatchState("x", started_ns=0)
    heard = take(state, pack_narration(said), host_ns=S)
    assert isinstance(heard, ReceivedNarration)
    _drawn(state, S)
    width = len(latency_bar(heard.latency_ms))
    assert width == (BAR_CELLS if heard.latency_ms["total"] > 0 else 0)


def test_sentence_is_shown_as_it_grows():
    """In the place of the last words until it is whole; the last words' latency stays."""
    state = WatchState("tcp://x", 0)
    first = narration()
    take(state, pack_narration(first), host_ns=1)
    partial = PartialNarration(first.population, 8, 0.1, 0.2, 0.1, "A grow", 2, 0, 1)
    take(state, pack_partial(partial), host_ns=2)
    assert "A grow …" in _drawn(state)
    assert first.utterance.text not in _drawn(state)
    assert state.n_unreadable == 0
    take(state, pack_narration(replace(first, id="another")), host_ns=3)
    assert "A grow" not in _drawn(state)
    assert state.n_received == {first.population: 2}


def test_triggers_stand_in_a_line_at_the_bottom(state):
    """Each rule that fired: how often, when last, how late; and a line of its own in a log."""
    for seq in range(2):
        fired = take(state, pack_trigger(trigger("car_seen", seq=seq)), host_ns=S)
    assert fired is not None
    assert fired.line == "1.250 s  all: [car_seen] 0.75  (6.0 ms)"
    dry = take(state, pack_trigger(trigger("dark", dry_run=True)), host_ns=S)
    assert dry is not None
    assert dry.line.endswith("(6.0 ms; dry run)")
    said = "triggers  car_seen 2x, 1.2 s, 6.0 ms  dark 1x, 1.2 s, 6.0 ms dry"
    assert said in _drawn(state)
    take(state, pack_narration(narration()), host_ns=S)
    assert said in _drawn(state)
    assert state.n_received == {"all": 1}


@given(triggers())
def test_any_trigger_can_be_drawn(fired):
    """Whatever a rule is called and finds, the view is drawn, and in as many lines as asked for."""
    state = WatchState("tcp://127.0.0.1:5571", started_ns=0)
    take(state, pack_trigger(fired), host_ns=S)
    take(state, pack_narration(narration()), host_ns=S)
    assert state.n_unreadable == 0
    assert len(_drawn(state, height=6).splitlines()) <= 6


def test_a_trigger_that_is_none_is_counted(state):
    """Bytes on a trigger's topic that are no trigger are passed over."""
    assert take(state, [b"trigger.x", b"{}"], host_ns=S) is None
    assert state.n_unreadable == 1
