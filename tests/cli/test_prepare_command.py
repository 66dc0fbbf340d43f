"""``neurrate prepare``: from a recording and frames to a data set, and what it refuses."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

import encoder_training.data_set.prepare as build
from contracts.binning import bin_spikes
from contracts.clock import seconds_to_ns
from contracts.population import Population
from encoder_training.data_set.prepared import Role
from encoder_training.data_set.prepared_facts import load_facts
from encoder_training.data_set.prepared_files import load_prepared
from encoder_training.frames.captions import Caption
from evaluation.simulated_encoder import SHIPPED_MODEL
from neurrate.cli import main
from simulation.cortex.nwb import SessionTruth
from stream_sources.recordings.nwb import NwbSource
from tests.support.nwb_files import random_trains, write_presentations, write_units
from tests.support.pictures import no_drawing
from tests.support.short_day import write_short_day


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> SessionTruth:
    """Write a short day of a small animal: a movie of 60 frames four times, one of 40 once."""
    return write_short_day(
        tmp_path_factory.mktemp("prepare") / "day.nwb", one=(6, 10), three=(2, 20)
    )


def command(session: SessionTruth, out: Path, *more: str) -> list[str]:
    """Return a command line for the simulated day."""
    words = ["prepare", str(session.path), str(out), "--frames", str(session.movies)]
    return [*words, "--model", str(SHIPPED_MODEL), *more]


@pytest.fixture(scope="module")
def folder(session: SessionTruth, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepare the day."""
    out = tmp_path_factory.mktemp("prepared") / "data"
    assert main(command(session, out, "--units", "allen", "--every", "2")) == 0
    return out


@pytest.fixture(autouse=True)
def _no_drawing(folder):
    """Draw pictures for the first data set alone."""
    with no_drawing():
        yield


def lab_recording(folder: Path, *, captions: bool = False) -> tuple[Path, Path]:
    """Write a laboratory's own recording: six repeats of five frames of 0.4 s, table ``mine``."""
    path = write_units(folder / "lab.nwb", random_trains(seconds=20.0))
    number = np.tile(np.arange(5), 6)
    start = 1.0 + 0.4 * np.arange(len(number))
    captions_of = ["" if n == 3 else f"Picture {n}." for n in number.tolist()]
    write_presentations(
        path,
        "mine",
        start_time=start,
        stop_time=start + 0.4,
        frame=number.astype(float),
        **({"caption": captions_of} if captions else {}),
    )
    frames = np.random.default_rng(0).integers(0, 255, (5, 20, 30), dtype=np.uint8)
    np.save(folder / "mine.npy", frames)
    return path, folder / "mine.npy"


def prepare_lab(folder: Path, *more: str, frames: Path | None = None, captions: bool = False):
    """Prepare the laboratory's recording; return the exit code and the folder."""
    path, own = lab_recording(folder, captions=captions)
    words = ["prepare", str(path), str(folder / "data"), "--frames", str(frames or own)]
    stimuli = [] if "--stimuli" in more else ["--stimuli", "mine"]
    return main([*words, "--model", str(SHIPPED_MODEL), *stimuli, *more]), folder / "data"


def test_first_frames_after_grey_have_windows(folder):
    """Three blocks begin after seconds of grey: frame 0 has windows there, and at no join."""
    prepared = load_prepared(folder)
    shown = prepared.shown
    assert shown.blank_from_ns is not None
    has_blank = shown.blank_from_ns < shown.start_ns
    is_first = np.diff(shown.block, prepend=-1) != 0
    assert (is_first & has_blank).sum() == 3
    assert (is_first & ~has_blank).sum() == 2
    data, _ = prepared.windows(100_000_000)
    starts = [(prepared.frames.label(row), int((data.frame == row).sum())) for row in (0, 30)]
    assert starts == [("natural_movie_one 0", 2), ("natural_movie_three 0", 1)]


def test_counts_are_those_of_the_spikes_that_were_drawn(session, folder):
    """Every bin of every span holds what the simulation's own trains have there."""
    prepared = load_prepared(folder, check_hashes=True)
    row_of = {str(unit_id): row for row, unit_id in enumerate(session.units.unit_id.tolist())}
    trains = [session.trains.of(row_of[unit.unit_id]) for unit in prepared.population.units]
    unit_index = np.repeat(np.arange(len(trains)), [len(train) for train in trains])
    counted = [
        bin_spikes(
            seconds_to_ns(np.concatenate(trains)),
            unit_index,
            first_bin=first,
            n_bins=stop - first,
            rate=prepared.window.rate,
            n_units=len(trains),
        )
        for first, stop in zip(
            prepared.spans.first_bin.tolist(), prepared.spans.stop_bin.tolist(), strict=True
        )
    ]
    assert len(counted) == 3
    assert np.array_equal(prepared.counts, np.concatenate(counted))


def test_labels_are_those_of_the_schedule(session, folder):
    """Each window's frame is the one that the schedule had on the screen 100 ms before its end."""
    prepared = load_prepared(folder)
    data, parts = prepared.windows(100_000_000)
    bins = np.concatenate([np.arange(a, b) for a, b in zip(*vars_of(prepared.spans), strict=True)])
    blocks = [block for block in session.trains.schedule.blocks if block.movie is not None]
    for first, frame in zip(bins[data.first_bin].tolist(), data.frame.tolist(), strict=True):
        seen_s = prepared.window.rate.start_ns(first + 20) / 1e9 - 0.1
        (block,) = [b for b in blocks if b.start_s[0] <= seen_s < b.stop_s[-1]]
        row = int(np.flatnonzero(block.start_s <= seen_s)[-1])
        movie = prepared.frames.movies[prepared.frames.movie[frame]]
        assert (movie, prepared.frames.number[frame]) == (block.movie.name, block.frame[row])
    assert {len(part) > 0 for part in (parts.train, parts.validation, parts.test)} == {True}


def vars_of(spans):
    """Return the edges of spans as lists."""
    return spans.first_bin.tolist(), spans.stop_bin.tolist()


def test_captions_and_roles_are_there(session, folder):
    """Captions come with the recording; the movie shown once only teaches, and the facts say so."""
    prepared = load_prepared(folder)
    facts = load_facts(folder)
    assert all(prepared.frames.captions)
    assert prepared.frames.movies == ("natural_movie_one", "natural_movie_three")
    assert prepared.frames.number.tolist() == [*range(0, 60, 2), *range(0, 40, 2)]
    assert [movie.n_frames for movie in facts.movies] == [60, 40]
    assert "captions are from the recording" in facts.notes
    assert any(note.startswith("natural_movie_three was shown once") for note in facts.notes)
    assert any(note.startswith("all 26 test frames are also shown") for note in facts.notes)
    long = np.isin(prepared.shown.frame, np.flatnonzero(prepared.frames.movie == 1))
    assert set(prepared.shown.role[long].tolist()) == {Role.TRAIN}
    assert isinstance(prepared.population, Population)
    assert facts.recording == f"nwb:{NwbSource(str(session.path)).identifier}"


def test_a_movie_without_frames_is_named(session, tmp_path, capsys):
    """A stimulus of the recording that --frames lacks is left out, and the notes say so."""
    frames = tmp_path / "frames"
    frames.mkdir()
    shutil.copy(session.movies / "natural_movie_one.h5", frames)
    words = ["prepare", str(session.path), str(tmp_path / "data"), "--frames", str(frames)]
    assert main([*words, "--model", str(SHIPPED_MODEL)]) == 0
    printed = capsys.readouterr().out
    assert "natural_movie_three, with 40 presentations of numbered frames, is left out" in printed


def test_the_report_shows_what_went_in(folder):
    """A report with its pictures lies in the folder and names no path of this machine."""
    text = (folder / "report.md").read_text()
    assert "| natural_movie_one | 60 | 30 | 4 | 240 |" in text
    assert "| validation |" in text
    for name in ("alignment.png", "rates.png", "split.png"):
        assert f"({name})" in text
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    assert str(folder.parent) not in text
    hashed = json.loads((folder / "dataset.json").read_text())
    assert str(folder.parent) not in json.dumps({**hashed, "command": ""})


def test_an_interrupted_work_goes_on_and_ends_the_same(session, folder, tmp_path, monkeypatch):
    """Stopped within the patches and before the counts, it goes on to the same sha256."""
    out = tmp_path / "data"
    words = command(session, out, "--units", "allen", "--every", "2")

    def stop(*_arguments, **_options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("encoder_training.frames.patch_store._write_progress", stop_after(2))
        main(words)
    assert (out / "patches.safetensors.partial").exists()
    with monkeypatch.context() as patch:
        patch.setattr(build, "write_counts", stop)
        main(words)
    assert (out / "patches.safetensors").exists()
    assert not (out / "dataset.json").exists()
    assert main(words) == 0
    assert load_facts(out).data_sha256 == load_facts(folder).data_sha256
    assert not (out / "unfinished.json").exists()


CHILD = """
import sys
from encoder_training.frames.tower import VisionTower
from neurrate.cli import main

look = VisionTower.patches

def patches(tower, frames, n_looks=[0]):
    n_looks[0] += 1
    if n_looks[0] == 3:
        print("third", flush=True)
        sys.stdin.read()
    return look(tower, frames)

VisionTower.patches = patches
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_a_killed_work_goes_on_and_ends_the_same(session, folder, tmp_path):
    """SIGKILL at the third look of the tower, the same command again: the same sha256."""
    out = tmp_path / "data"
    words = command(session, out, "--units", "allen", "--every", "2")
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"third\n"
        child.kill()
    assert child.returncode == -signal.SIGKILL
    progress = json.loads((out / "patches.safetensors.progress").read_text())
    assert 0 < progress["n_done"] < 50
    assert main(words) == 0
    assert load_facts(out).data_sha256 == load_facts(folder).data_sha256


def stop_after(n_calls: int):
    """Return a stand-in for writing the progress that is interrupted at one of its calls."""
    from encoder_training.frames.patch_store import _write_progress

    calls = iter(range(1_000))

    def write(*arguments):
        if next(calls) == n_calls:
            raise KeyboardInterrupt
        _write_progress(*arguments)

    return write


def test_a_finished_data_set_is_left_as_it_is(session, folder, capsys):
    """The same command again says that all is done, and touches no file."""
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert main(command(session, folder, "--units", "allen", "--every", "2")) == 0
    printed = capsys.readouterr().out
    assert f"{folder} is finished: " in printed
    assert "nothing to do" in printed
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_an_unfinished_folder_with_other_options_is_refused(session, tmp_path, monkeypatch, capsys):
    """What differs is named, and --overwrite starts anew."""
    out = tmp_path / "data"

    def stop(*_arguments, **_options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build, "fill_patches", stop)
        main(command(session, out, "--every", "2"))
        assert main(command(session, out, "--every", "4", "--bins", "16")) == 2
    printed = capsys.readouterr().err
    assert "--bins was 20 and is 16; --every was 2 and is 4" in printed
    assert "--overwrite" in printed


def test_overwriting_keeps_patches_that_are_the_same(tmp_path):
    """Another split takes a second and not the tower's hours; other frames are looked at anew."""
    code, out = prepare_lab(tmp_path)
    assert code == 0
    patches = out / "patches.safetensors"
    before, facts = patches.stat().st_mtime_ns, load_facts(out)
    path = tmp_path / "lab.nwb"
    words = ["prepare", str(path), str(out), "--model", str(SHIPPED_MODEL), "--stimuli", "mine"]
    again = ["--held-out", "2", "--overwrite"]
    assert main([*words, "--frames", str(tmp_path / "mine.npy"), *again]) == 0
    assert patches.stat().st_mtime_ns == before
    assert load_facts(out).data_sha256 != facts.data_sha256
    np.save(tmp_path / "others.npy", np.zeros((5, 20, 30), dtype=np.uint8))
    assert main([*words, "--frames", str(tmp_path / "others.npy"), *again]) == 0
    assert patches.stat().st_mtime_ns != before
    assert len(np.unique(load_prepared(out).targets, axis=0)) == 1


def test_overwriting_waits_until_all_is_known(tmp_path, capsys):
    """With a model that is none the data set stays as it was."""
    code, out = prepare_lab(tmp_path)
    assert code == 0
    words = ["prepare", str(tmp_path / "lab.nwb"), str(out), "--frames", str(tmp_path / "mine.npy")]
    assert main([*words, "--stimuli", "mine", "--model", str(tmp_path), "--overwrite"]) == 2
    assert "the model must be the folder of a LLaVA" in " ".join(capsys.readouterr().err.split())
    load_prepared(out, check_hashes=True)


def test_overwriting_keeps_patches_where_a_frame_cannot_be_read(tmp_path, capsys):
    """A picture that was damaged meanwhile ends the work, and the patches of before stay."""
    pictures = tmp_path / "mine"
    pictures.mkdir()
    for number in range(5):
        noise = np.random.default_rng(number).integers(0, 255, (20, 30), dtype=np.uint8)
        Image.fromarray(noise).save(pictures / f"{number}.png")
    code, out = prepare_lab(tmp_path, frames=pictures)
    assert code == 0
    before = (out / "patches.safetensors").stat().st_mtime_ns
    damaged = pictures / "3.png"
    damaged.write_bytes(damaged.read_bytes()[:200])
    code, _ = prepare_lab(tmp_path, "--overwrite", frames=pictures)
    assert code == 2
    assert "3.png" in capsys.readouterr().err
    assert (out / "patches.safetensors").stat().st_mtime_ns == before


def test_a_folder_with_something_else_is_left_alone(session, folder, tmp_path, capsys):
    """A data set of other options is refused, and a folder of files even to overwrite."""
    assert main(command(session, folder)) == 2
    printed = " ".join(capsys.readouterr().err.split())
    assert "was prepared with other options: --units was 'allen' and is 'all'" in printed
    (tmp_path / "report.md").write_text("mine")
    assert main(command(session, tmp_path, "--overwrite")) == 2
    assert "a folder of its own" in capsys.readouterr().err
    assert (tmp_path / "report.md").read_text() == "mine"


def test_a_laboratory_names_its_own_table(tmp_path, capsys):
    """Any table of the intervals with times and frames serves; no captions give a note."""
    code, out = prepare_lab(tmp_path)
    printed = capsys.readouterr()
    assert (code, printed.err) == (0, printed.err)
    assert "note: there are no captions" in printed.out
    assert load_facts(out).movies[0].name == "mine"
    assert load_prepared(out).frames.captions == ("",) * 5


def test_cell_types_come_from_light(tmp_path: Path):
    """Of a day with a genotype: the cells that light drives have its type, and no others one."""
    day = write_short_day(tmp_path / "day.nwb", one=(2, 20), three=(1, 20), pulses_each=60)
    with h5py.File(day.path, "a") as file:
        file["general/subject/genotype"] = "Vip-IRES-Cre/wt"
    words = command(day, tmp_path / "data", "--cell-types", "optotagging", "--every", "9")
    assert main(words) == 0
    units = load_prepared(tmp_path / "data").population.units
    truth = dict(zip(day.units.unit_id.astype(str), day.units.cell_type, strict=True))
    assert {unit.cell_type for unit in units} == {"VIP", ""}
    tagged = [unit.unit_id for unit in units if unit.cell_type]
    assert all(truth[unit_id] for unit_id in tagged)
    assert len(tagged) > 0.8 * sum(bool(cell_type) for cell_type in truth.values())


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["--stimuli", "yours"], "--stimuli must name tables of the recording's intervals"),
        (["--held-out", "many"], "a whole number of repeats with --split repeats, got 'many'"),
        (["--held-out", "3"], r"must be shown 7 times or more; there are mine (6)"),
        (["--split", "movies"], "--split movies needs --held-out"),
        (["--split", "middle", "--chunk-seconds", "30"], "shorter --chunk-seconds"),
        (["--units", "area:VISp"], "area"),
        (["--cell-types", "optotagging"], "needs 10 pulses of light of 9 to 20 ms or more"),
        (["--captions", "nowhere.csv"], "nowhere.csv is not there"),
        (["--captions", "a.csv", "--captioner", "b"], "captions come from one place"),
        (["--lag-ms", "9000"], "no presentation has a window"),
        (["--device", "gpu"], "device must be auto, cpu, cuda or cuda:N, got 'gpu'"),
    ],
)
def test_what_cannot_be_done_is_said(tmp_path, capsys, more, text):
    """Each wish that cannot be met has its sentence, code 2, and no data set is left."""
    code, out = prepare_lab(tmp_path, *more)
    printed = capsys.readouterr().err
    assert code == 2
    assert text in printed
    assert "Traceback" not in printed
    assert not out.exists()


def test_frames_that_are_too_few_are_refused(tmp_path, capsys):
    """The sentence has both numbers and the movie."""
    frames = tmp_path / "short.npy"
    np.save(frames, np.zeros((4, 20, 30), dtype=np.uint8))
    code, out = prepare_lab(tmp_path, frames=frames)
    printed = " ".join(capsys.readouterr().err.split())
    assert code == 2
    assert "mine has 4 frames in --frames, and the recording shows numbers 0 to 4, so 5" in printed
    assert not out.exists()


def test_missing_captions_are_counted(tmp_path, capsys):
    """How many and which first; with leave, it goes on without them."""
    code, out = prepare_lab(tmp_path, captions=True)
    assert code == 2
    assert "1 of 5 frames have no caption in the recording: mine 3" in capsys.readouterr().err
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    code, out = prepare_lab(tmp_path, "--allow-missing-captions", captions=True)
    assert code == 0
    assert load_prepared(out).frames.captions[2:] == ("Picture 2.", "", "Picture 4.")


def test_captions_from_a_file_go_before_the_recording(tmp_path):
    """A CSV gives each frame its sentence."""
    lines = ["movie,frame,caption", *(f"mine,{n},Written {n}." for n in range(5))]
    (tmp_path / "captions.csv").write_text("\n".join(lines) + "\n")
    code, out = prepare_lab(tmp_path, "--captions", str(tmp_path / "captions.csv"), captions=True)
    assert code == 0
    assert load_prepared(out).frames.captions[3] == "Written 3."
    assert Caption("mine", 0, "").number == 0


def test_a_captioner_says_what_frames_show(tmp_path):
    """A LLaVA captions every second frame; the others take the words of the nearest."""
    more = ["--captioner", str(SHIPPED_MODEL), "--caption-every", "2", "--allow-missing-captions"]
    code, out = prepare_lab(tmp_path, *more)
    assert code == 0
    captions = load_prepared(out).frames.captions
    assert captions[0]
    assert captions[1] in {captions[0], captions[2]}
    assert "captions are by tiny-llava" in load_facts(out).notes
    assert not (out / "captioned.jsonl").exists()


def test_the_layout_of_the_public_sessions(real_recordings, tmp_path):
    """Twenty repeats in two blocks with one dropped frame: labels by the file's own table."""
    path = real_recordings / "allen_layout" / "allen_like_core2.2.2.nwb"
    if not path.is_file():
        pytest.skip("no file with the layout of the public sessions")
    rng = np.random.default_rng(0)
    frames = tmp_path / "natural_movie_1.h5"
    with frames.open("wb") as file:  # as the Allen Institute's: an array of numpy by its content
        np.save(file, rng.integers(0, 255, (60, 30, 60), dtype=np.uint8))
    out = tmp_path / "data"
    words = ["prepare", str(path), str(out), "--frames", str(frames), "--units", "allen"]
    more = ["--model", str(SHIPPED_MODEL), "--stimuli", "natural_movie_one"]
    assert main([*words, *more]) == 0
    prepared = load_prepared(out, check_hashes=True)
    data, parts = prepared.windows(100_000_000)
    with h5py.File(path) as file:
        table = file["intervals/natural_movie_one_presentations"]
        start_s, stop_s, number = (table[c][:] for c in ("start_time", "stop_time", "frame"))
    bins = np.concatenate([np.arange(a, b) for a, b in zip(*vars_of(prepared.spans), strict=True)])
    for first, frame in zip(bins[data.first_bin].tolist(), data.frame.tolist(), strict=True):
        seen_s = prepared.window.rate.start_ns(first + 20) / 1e9 - 0.1
        (row,) = np.flatnonzero((start_s <= seen_s) & (seen_s < stop_s))
        assert prepared.frames.number[frame] == number[row]
    assert len(np.unique(prepared.shown.group)) == 20
    assert min(len(parts.test), len(parts.validation)) > 40


def test_a_captioner_that_is_not_there_is_refused_before_the_patches(tmp_path, capsys):
    """The folder of the data set is not begun for a name that is mistyped."""
    code, folder = prepare_lab(tmp_path, "--captioner", "no-such-folder")
    assert code == 2
    assert "'no-such-folder' is no folder" in capsys.readouterr().err
    assert not folder.exists()
