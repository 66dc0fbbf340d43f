"""Pooled data sets: every bin is of the same frame and repeat, or its window is invalid."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from contracts.errors import UserError
from contracts.population import Population, Unit
from encoder_training.data_set.counting import CountedIntervals
from encoder_training.data_set.pool import PooledSet, PoolOptions, pool_data_sets
from encoder_training.data_set.prepared import PreparedSet, PresentationRows
from encoder_training.data_set.prepared_facts import load_facts
from encoder_training.data_set.prepared_files import load_prepared, write_prepared
from tests.support.prepared import FRAME_NS, prepared_set

N_FRAMES, N_REPEATS = 60, 4
LAG_NS = 50_000_000
NUMBER, REPEAT, OFFSET = range(3)
"""What the three units count: the frame, its repeat, and bins since the start of the frame."""


def stamped(
    *,
    period_ns: int = FRAME_NS,
    first_ns: int = 2_000_000_000,
    n_repeats: int = N_REPEATS,
    dropped: tuple[int, ...] = (),
    long: tuple[int, ...] = (),
    blank_ns: int = 0,
    held_out: str = "middle",
) -> PreparedSet:
    """Return a session whose counts name the presentation that each bin is of.

    `dropped` are rows that are missing, the one before them staying on the screen; `long` are rows
    that last half as long again.
    """
    small = prepared_set(n_frames=N_FRAMES, n_repeats=n_repeats, held_out=held_out, units_each=1)
    frame, repeat = small.shown.frame, small.shown.block
    lengths = np.full(len(frame), period_ns)
    lengths[list(long)] += period_ns // 2
    edges = first_ns + np.concatenate([[0], np.cumsum(lengths)])
    edges[:-1] += repeat * 3_000_000_000  # a pause before each repeat
    start_ns, stop_ns = edges[:-1], edges[:-1] + lengths
    kept = np.setdiff1d(np.arange(len(frame)), dropped)
    shown = PresentationRows(
        start_ns=start_ns[kept],
        stop_ns=stop_ns[kept],
        frame=frame[kept],
        block=repeat[kept],
        group=small.shown.group[kept],
        role=small.shown.role[kept],
        blank_from_ns=(start_ns[repeat * N_FRAMES] - blank_ns)[kept],
    )
    rate = small.window.rate
    n_bins = rate.bin_of(int(stop_ns[-1])) + 1
    middle_ns = (rate.starts_ns(np.arange(n_bins)) + rate.starts_ns(np.arange(1, n_bins + 1))) // 2
    row = np.searchsorted(shown.start_ns, middle_ns, side="right") - 1
    counts = np.zeros((n_bins, 3), np.uint8)
    is_in = row >= 0
    counts[is_in, NUMBER] = 1 + shown.frame[row[is_in]]
    counts[is_in, REPEAT] = 1 + shown.block[row[is_in]]
    since_ns = middle_ns - shown.start_ns[row]
    counts[is_in, OFFSET] = np.minimum(since_ns[is_in] * rate.num // 10**9, 200)
    return replace(
        small,
        counts=counts,
        shown=shown,
        spans=CountedIntervals(np.array([0]), np.array([n_bins])),
        population=Population([Unit(str(u), probe="A", area=a) for u, a in enumerate("XYY")]),
    )


def write(folder: Path, name: str, prepared: PreparedSet) -> Path:
    """Write it as the data set of a session of this name."""
    training_data = prepared.training_data.model_copy(update={"session_id": name})
    write_prepared(folder / name, replace(prepared, training_data=training_data))
    return folder / name


def pool(folder: Path, *sessions: PreparedSet, exchange: bool = False, seed: int = 0) -> PooledSet:
    """Pool sessions named S0, S1."""
    folders = [write(folder, f"S{at}", one) for at, one in enumerate(sessions)]
    return pool_data_sets(PoolOptions(tuple(folders), folder / "pooled", exchange, seed))


def windows_of(prepared: PreparedSet) -> tuple[np.ndarray, np.ndarray]:
    """Return frames of all windows, and their counts."""
    data, _ = prepared.windows(LAG_NS)
    return data.frame, data.counts_of(np.arange(data.n_windows)).astype(np.int64)


def test_every_bin_is_of_the_same_frame_and_repeat(tmp_path):
    """Another period, start and phase: frame and repeat agree in every bin of every window."""
    found = pool(tmp_path, stamped(), stamped(period_ns=33_900_000, first_ns=2_503_000_123))
    frame, counts = windows_of(found.data)
    assert len(frame) > 150
    assert np.array_equal(np.unique(counts[:, :, 3 + REPEAT]), np.arange(1, N_REPEATS + 1))
    for stamp in (NUMBER, REPEAT):
        apart = np.abs(counts[:, :, stamp] - counts[:, :, 3 + stamp])
        # A bin across the border of two frames may be named after either of them
        assert (apart > 0).mean() < (0.15 if stamp == NUMBER else 1e-9)
        assert apart.max() <= 1
    assert (
        np.abs(counts[:, :, OFFSET] - counts[:, :, 3 + OFFSET])[
            counts[:, :, NUMBER] == counts[:, :, 3 + NUMBER]
        ].max()
        <= 1
    )


def test_the_offset_never_accumulates(tmp_path):
    """After 60 frames of 1 ms more the last window still reads the same distances."""
    found = pool(tmp_path, stamped(), stamped(period_ns=FRAME_NS + 1_000_000))
    frame, counts = windows_of(found.data)
    late = counts[frame >= N_FRAMES - 3]
    assert len(late) > 0
    same = late[:, :, NUMBER] == late[:, :, 3 + NUMBER]
    assert same.mean() > 0.85
    assert np.abs(late[:, :, OFFSET] - late[:, :, 3 + OFFSET])[same].max() <= 1
    (note,) = [note for note in found.notes if "taken twice" in note]
    assert note.startswith("S1: of ")
    assert " 0 skipped" not in note


def test_a_session_pooled_with_an_equal_one_is_read_as_it_is(tmp_path):
    """With the same times nothing is skipped, and both halves of the counts are the same."""
    found = pool(tmp_path, stamped(), stamped())
    in_blocks = found.data.counts[:, :3][found.data.counts[:, 3] > 0]
    assert np.array_equal(in_blocks, found.data.counts[:, 3:][found.data.counts[:, 3] > 0])
    assert windows_of(found.data)[0].tolist() == windows_of(stamped())[0].tolist()
    assert any("0 were taken twice and 0 skipped" in note for note in found.notes)


@pytest.mark.parametrize("of_first", [True, False])
def test_a_frame_that_one_session_lacks_makes_its_windows_invalid(tmp_path, of_first):
    """A dropped frame of either session is in no window, and no window holds zeros for it."""
    dropped = stamped(dropped=(30,))
    sessions = (dropped, stamped()) if of_first else (stamped(), dropped)
    found = pool(tmp_path, *sessions)
    frame, counts = windows_of(found.data)
    assert (counts[:, :, 3 + NUMBER] > 0).all()
    assert np.abs(counts[:, :, NUMBER] - counts[:, :, 3 + NUMBER]).max() <= 1
    # Lost in the one repeat that lacks it, with the windows that see it; there in the other three
    assert np.bincount(frame, minlength=N_FRAMES)[[30, 31, 45]].tolist() == [3, 3, 4]


def test_a_long_frame_loses_no_window(tmp_path):
    """A frame that is half as long again moves nothing after it."""
    found = pool(tmp_path, stamped(), stamped(long=(10, 70, 71)))
    assert windows_of(found.data)[0].tolist() == windows_of(stamped())[0].tolist()
    _, counts = windows_of(found.data)
    assert np.abs(counts[:, :, NUMBER] - counts[:, :, 3 + NUMBER]).max() <= 1
    assert any("S1: " in note and " 0 skipped" not in note for note in found.notes)


def test_what_a_session_did_not_count_is_invalid(tmp_path):
    """Bins outside the spans, and in invalid intervals, of the other session are in no window."""
    other = stamped()
    cut_ns = int(other.shown.start_ns[3 * N_FRAMES + 30])
    stop_bin = other.window.rate.bin_of(cut_ns)
    invalid = np.array([[other.shown.start_ns[20], other.shown.start_ns[21]]])
    other = replace(
        other,
        counts=other.counts[:stop_bin],
        spans=CountedIntervals(np.array([0]), np.array([stop_bin])),
        invalid_ns=invalid,
    )
    found = pool(tmp_path, stamped(), other)
    frame, counts = windows_of(found.data)
    assert (counts[:, :, 3 + NUMBER] > 0).all()
    assert np.bincount(frame, minlength=N_FRAMES)[[20, 40, 50]].tolist() == [3, 3, 3]


def test_the_shorter_blank_counts(tmp_path):
    """The first frames have windows as far as both screens were blank, whichever comes first."""
    long, short, none = (stamped(blank_ns=ms * 1_000_000) for ms in (500, 60, 0))
    alone = [windows_of(one)[0].tolist() for one in (long, short, none)]
    assert len(alone[0]) > len(alone[1]) > len(alone[2])
    for name, sessions, expected in (
        ("both", (long, long), alone[0]),
        ("second", (long, short), alone[1]),
        ("first", (short, long), alone[1]),
        ("none", (long, none), alone[2]),
    ):
        found = pool(tmp_path / name, *sessions)
        assert windows_of(found.data)[0].tolist() == expected


def test_repeats_are_matched_within_their_role(tmp_path):
    """Of four and of six repeats, one is test and one validation in both; the fewest are taken."""
    one, other = stamped(held_out="repeats"), stamped(held_out="repeats", n_repeats=6)
    found = pool(tmp_path, one, other)
    _, counts = windows_of(found.data)
    pairs = set(zip(counts[:, 0, REPEAT].tolist(), counts[:, 0, 3 + REPEAT].tolist(), strict=True))
    assert pairs == {(1, 1), (2, 2), (3, 5), (4, 6)}
    assert any("2 of the 4 of S1" in note for note in found.notes)
    other_way = pool(tmp_path / "other", other, one)
    _, counts = windows_of(other_way.data)
    assert set(counts[:, 0, REPEAT].tolist()) == {1, 2, 5, 6}


def test_units_are_named_after_their_session(tmp_path):
    """Probes begin with the session, expressions select it, and areas are as they were."""
    found = pool(tmp_path, stamped(), stamped())
    population = found.data.population
    assert [unit.label for unit in population.units][::3] == ["S0/A/0", "S1/A/0"]
    assert population.select("probe:S1/A").mask.tolist() == [False] * 3 + [True] * 3
    assert population.select("area:Y").n_units == 4
    facts = load_facts(tmp_path / "pooled")
    assert [(s.session_id, s.n_units) for s in facts.sessions] == [("S0", 3), ("S1", 3)]
    assert [s.data_sha256 for s in facts.sessions] == [
        load_facts(tmp_path / name).data_sha256 for name in ("S0", "S1")
    ]


def test_the_same_inputs_give_the_same_data_set(tmp_path):
    """Equal inputs have one sha256; another seed of the exchange has another."""
    one, two, three = (
        pool(tmp_path / name, stamped(), stamped(), exchange=True, seed=seed)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert one.data_sha256 == two.data_sha256 != three.data_sha256


def test_ordinary_data_sets_have_no_sessions(tmp_path):
    """The field is only in pooled sets, so that programs before it read all others."""
    write_prepared(tmp_path / "set", stamped())
    assert "sessions" not in json.loads((tmp_path / "set" / "dataset.json").read_text())


def test_exchange_keeps_frame_and_role_and_takes_every_repeat_once(tmp_path):
    """Each unit has its repeats in an order of its own; frames and distances stay."""
    found = pool(tmp_path, stamped(), exchange=True)
    before = stamped()
    _, counts = windows_of(found.data)
    assert found.data.population == before.population
    # The unit that names the repeat is constant within one: an order, and not a draw for each bin
    assert (counts[:, :, REPEAT].max(axis=1) == counts[:, :, REPEAT].min(axis=1)).all()
    by_time = counts[:, 0, REPEAT][np.sort(np.unique(counts[:, 0, REPEAT], return_index=True)[1])]
    assert sorted(by_time.tolist()) == [1, 2, 3, 4]


def test_exchange_stays_within_the_role(tmp_path):
    """With repeats held out, the test's repeat is never taken in training."""
    session = stamped(held_out="repeats", n_repeats=6)
    for seed in range(3):
        found = pool(tmp_path / str(seed), session, exchange=True, seed=seed)
        data, parts = found.data.windows(LAG_NS)
        counts = data.counts_of(np.arange(data.n_windows))
        assert set(counts[parts.test][:, :, REPEAT].ravel()) == {6}
        assert set(counts[parts.train][:, :, REPEAT].ravel()) == {1, 2, 3, 4}


def test_a_frame_dropped_in_one_repeat_is_invalid_in_all_after_an_exchange(tmp_path):
    """Any unit may be read from the repeat that lacks it."""
    found = pool(tmp_path, stamped(dropped=(30,)), exchange=True)
    frame, counts = windows_of(found.data)
    assert np.bincount(frame, minlength=N_FRAMES)[[30, 31, 45]].tolist() == [0, 0, 4]
    assert (counts[:, :, NUMBER] > 0).all()


def test_a_unit_alone_only_changes_places(tmp_path):
    """Where frames begin with a bin, its windows of a frame are the same ones in another order."""
    session = stamped(period_ns=50_000_000)
    rng = np.random.default_rng(0)
    session = replace(session, counts=rng.poisson(1.0, session.counts.shape).astype(np.uint8))
    frame, before = windows_of(session)
    exchanged_frame, after = windows_of(pool(tmp_path, session, exchange=True).data)
    assert np.array_equal(exchanged_frame, frame)
    assert not np.array_equal(before, after)
    for unit in range(before.shape[2]):
        ordered = [
            sorted(zip(frame.tolist(), windows[:, :, unit].tolist(), strict=True))
            for windows in (before, after)
        ]
        assert ordered[0] == ordered[1]


def shuffled(seed: int) -> PreparedSet:
    """Return images of 250 ms in random order, each shown four times in all."""
    session = stamped(period_ns=250_000_000)
    order = np.random.default_rng(seed).permutation(len(session.shown.frame))
    frame = session.shown.frame[order]
    edges = 2_000_000_000 + 250_000_000 * np.arange(len(frame) + 1)
    shown = replace(
        session.shown,
        start_ns=edges[:-1],
        stop_ns=edges[1:],
        frame=frame,
        block=np.zeros_like(frame),
        group=session.shown.group[order],
        role=session.shown.role[order],
        blank_from_ns=np.full_like(frame, edges[0]),
    )
    rate = session.window.rate
    n_bins = rate.bin_of(int(edges[-1])) + 1
    row = np.searchsorted(edges, rate.starts_ns(np.arange(n_bins)), side="right") - 1
    is_in = (row >= 0) & (row < len(frame))
    before = np.array([(frame[:at] == image).sum() for at, image in enumerate(frame)])
    counts = np.zeros((n_bins, 3), np.uint8)
    counts[is_in, NUMBER] = 1 + frame[row[is_in]]
    counts[is_in, REPEAT] = 1 + before[row[is_in]]
    spans = CountedIntervals(np.array([0]), np.array([n_bins]))
    return replace(session, shown=shown, counts=counts, spans=spans)


def test_images_in_random_order_are_matched_one_by_one(tmp_path):
    """Each image is read where the other session showed it as often before."""
    found = pool(tmp_path, shuffled(1), shuffled(2))
    frame, counts = windows_of(found.data)
    assert len(frame) > 200
    assert np.array_equal(counts[:, :, :2], counts[:, :, 3:5])


def test_orders_of_two_units_agree_by_chance_alone(tmp_path):
    """Units of one session are together in one of `N_REPEATS` repeats, as often as by chance."""
    session = stamped()
    n_units = 200
    many = replace(
        session,
        counts=np.repeat(session.counts[:, [REPEAT]], n_units, axis=1),
        population=Population([Unit(str(unit)) for unit in range(n_units)]),
    )
    _, counts = windows_of(pool(tmp_path, many, exchange=True).data)
    taken = counts[:, 0]
    share = np.mean([np.bincount(row, minlength=5)[1:] / n_units for row in taken], axis=0)
    assert share == pytest.approx(np.full(N_REPEATS, 1 / N_REPEATS), abs=0.01)
    together = (taken[:, :, None] == taken[:, None, :]).mean()
    assert together == pytest.approx(1 / N_REPEATS, abs=0.02)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda one: replace(one, window=replace(one.window, n_bins=8)), "--bins"),
        (lambda one: replace(one, targets=one.targets + np.float16(1)), "their patches differ"),
        (
            lambda one: replace(one, frames=replace(one.frames, movies=("another",))),
            "Choose the same ones with --stimuli",
        ),
        (
            lambda one: replace(
                one, frames=replace(one.frames, captions=("x",) * len(one.frames.captions))
            ),
            "frames or captions differ",
        ),
        (
            lambda one: replace(one, shown=replace(one.shown, role=one.shown.role[::-1].copy())),
            "hold out the same frames",
        ),
    ],
)
def test_what_does_not_agree_is_refused(tmp_path, change, words):
    """Both data sets are named, with what to do, and nothing is written."""
    with pytest.raises(UserError, match=words) as caught:
        pool(tmp_path, stamped(), change(stamped()))
    assert str(tmp_path / "S0") in str(caught.value)
    assert str(tmp_path / "S1") in str(caught.value)
    assert not (tmp_path / "pooled").exists()


def test_other_splits_are_refused_by_option(tmp_path):
    """The options that differ are named."""
    folders = []
    for name, held_out in (("S0", "0.2"), ("S1", "0.5")):
        one = stamped()
        training_data = one.training_data.model_copy(update={"session_id": name})
        write_prepared(
            tmp_path / name,
            replace(one, training_data=training_data),
            options={"--held-out": held_out},
        )
        folders.append(tmp_path / name)
    with pytest.raises(UserError, match=r"--held-out was '0\.2' and '0\.5'"):
        pool_data_sets(PoolOptions(tuple(folders), tmp_path / "pooled"))


def test_one_set_or_one_session_twice_is_no_pool(tmp_path):
    """One data set needs an exchange, and no session is taken twice."""
    folder = write(tmp_path, "S0", stamped())
    with pytest.raises(UserError, match="two data sets or more"):
        pool_data_sets(PoolOptions((folder,), tmp_path / "pooled"))
    with pytest.raises(UserError, match="S0 is in"):
        pool_data_sets(PoolOptions((folder, folder), tmp_path / "pooled"))


def test_a_folder_that_is_taken_is_refused(tmp_path):
    """A finished pool and files of others are kept; a pool that was cut short is not."""
    pool(tmp_path, stamped(), stamped())
    folders = (tmp_path / "S0", tmp_path / "S1")
    with pytest.raises(UserError, match="folder of its own"):
        pool_data_sets(PoolOptions(folders, tmp_path / "pooled"))
    (tmp_path / "pooled" / "dataset.json").unlink()
    own = (tmp_path / "pooled" / "patches.safetensors").rename(tmp_path / "own")
    own.with_name("kept").write_bytes(b"of a data set that is being prepared")
    (tmp_path / "kept").rename(tmp_path / "pooled" / "patches.safetensors")
    with pytest.raises(UserError, match="folder of its own"):
        pool_data_sets(PoolOptions(folders, tmp_path / "pooled"))
    own.replace(tmp_path / "pooled" / "patches.safetensors")
    again = pool_data_sets(PoolOptions(folders, tmp_path / "pooled"))
    assert again.data_sha256 == load_facts(tmp_path / "pooled").data_sha256


def test_a_pool_can_be_pooled_and_exchanged_again(tmp_path):
    """Its units keep their names, and three sessions are three."""
    pool(tmp_path, stamped(), stamped())
    third = write(tmp_path, "S2", stamped())
    found = pool_data_sets(PoolOptions((tmp_path / "pooled", third), tmp_path / "three"))
    assert [unit.probe for unit in found.data.population.units][::3] == ["S0/A", "S1/A", "S2/A"]
    exchanged = pool_data_sets(PoolOptions((tmp_path / "pooled",), tmp_path / "ex", True))
    assert exchanged.data.population == load_prepared(tmp_path / "pooled").population
    assert len(load_facts(tmp_path / "ex").sessions) == 2
