import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from contracts.errors import MisuseError, UserError
from encoder_training.data_set.prepared import FrameTable
from encoder_training.frames.patch_store import fill_patches, open_patches
from tests.support.patch_towers import ArithmeticTower, two_movies

ROOT = Path(__file__).parents[3]

CHILD = """
import sys
from pathlib import Path
from encoder_training.frames.patch_store import fill_patches
from tests.support.patch_towers import ArithmeticTower, two_movies

class Announced(ArithmeticTower):
    n_looks = 0

    def patches(self, frames):
        self.n_looks += 1
        if self.n_looks == 3:
            print("third", flush=True)
            sys.stdin.read()
        return super().patches(frames)

fill_patches(Path(sys.argv[1]), *two_movies(), Announced())
"""


def test_patches_are_a_safetensors_file_that_is_mapped(tmp_path):
    """The file is read by the safetensors library, and by us without being loaded."""
    frames, movies = two_movies()
    path = tmp_path / "patches.safetensors"
    tower = ArithmeticTower()
    fill_patches(path, frames, movies, tower)
    stored = load_file(path)["patches"]
    mapped = open_patches(path)
    assert isinstance(mapped, np.memmap)
    assert mapped.dtype == np.float16
    assert mapped.shape == (len(frames.number), tower.grid.n_patches, tower.grid.dim)
    np.testing.assert_array_equal(mapped, stored)
    for row, (movie, number) in enumerate(zip(frames.movie, frames.number, strict=True)):
        seen = movies[frames.movies[movie]].frames(number, number + 1)
        np.testing.assert_array_equal(mapped[row], tower.patches(seen)[0])
    assert [path.name for path in tmp_path.iterdir()] == ["patches.safetensors"]


def test_killed_in_the_middle_and_gone_on_with_equals_uninterrupted(tmp_path):
    """A process killed in its third batch loses that batch alone, and the file is the same."""
    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    frames, movies = two_movies()
    sha256 = fill_patches(whole, frames, movies, ArithmeticTower())
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(cut)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"third\n"
        os.kill(child.pid, signal.SIGKILL)
    assert not cut.exists()
    tower = ArithmeticTower()
    assert fill_patches(cut, frames, movies, tower) == sha256
    assert tower.n_frames == len(frames.number) - 8
    assert cut.read_bytes() == whole.read_bytes()


def test_rows_written_but_not_counted_are_written_again(tmp_path):
    """What stands behind the last counted row is not trusted."""
    frames, movies = two_movies()
    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    fill_patches(whole, frames, movies, ArithmeticTower())
    with pytest.raises(KeyboardInterrupt):
        fill_patches(cut, frames, movies, ArithmeticTower(stop_at=3))
    partial = tmp_path / "cut.safetensors.partial"
    content = bytearray(partial.read_bytes())
    content[-100:] = b"\xff" * 100
    partial.write_bytes(content)
    fill_patches(cut, frames, movies, ArithmeticTower())
    assert cut.read_bytes() == whole.read_bytes()


def test_a_whole_file_is_not_computed_again(tmp_path):
    """A second call looks at no picture, and answers the same."""
    frames, movies = two_movies()
    path = tmp_path / "patches.safetensors"
    first = fill_patches(path, frames, movies, ArithmeticTower())
    tower = ArithmeticTower()
    assert fill_patches(path, frames, movies, tower) == first
    assert tower.n_frames == 0


@pytest.mark.parametrize("stop_at", [3, None], ids=["begun", "whole"])
def test_another_tower_does_not_go_on(tmp_path, stop_at):
    """Rows of two towers are never in one file."""
    frames, movies = two_movies()
    path = tmp_path / "patches.safetensors"
    _fill(path, stop_at)
    with pytest.raises(UserError, match="another model"):
        fill_patches(path, frames, movies, ArithmeticTower(factor=3))


@pytest.mark.parametrize("stop_at", [3, None], ids=["begun", "whole"])
def test_frames_that_changed_do_not_go_on(tmp_path, stop_at):
    """A file of frames that was replaced meanwhile is seen by its pixels."""
    frames, movies = two_movies()
    path = tmp_path / "patches.safetensors"
    _fill(path, stop_at)
    movies["first"].array[0, 0, 0] ^= 1
    with pytest.raises(UserError, match="pixels have changed"):
        fill_patches(path, frames, movies, ArithmeticTower())


def test_other_captions_go_on(tmp_path):
    """Captions are no part of what patches depend on."""
    frames, movies = two_movies()
    path = tmp_path / "patches.safetensors"
    _fill(path, stop_at=3)
    captioned = replace(frames, captions=("a car.",) * len(frames.number))
    fill_patches(path, captioned, movies, ArithmeticTower())
    assert path.exists()


def test_frames_that_a_movie_lacks_are_listed(tmp_path):
    """Frames whose number is beyond the movie are named before anything is computed."""
    frames, movies = two_movies()
    wrong = replace(frames, number=frames.number + 5)
    with pytest.raises(UserError, match=r"shows \d+ frames of first .*: 11, 12.* it has 0 to 10"):
        fill_patches(tmp_path / "patches.safetensors", wrong, movies, ArithmeticTower())
    assert not list(tmp_path.iterdir())


def test_a_full_disk_says_how_much_is_needed(tmp_path):
    """The disk space is reserved before the first picture."""
    resource = pytest.importorskip("resource")
    frames, movies = two_movies()
    tower = ArithmeticTower()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, before[1]))
    try:
        with pytest.raises(UserError, match=r"frames take 0\.00 GiB .* are free: File too large"):
            fill_patches(tmp_path / "patches.safetensors", frames, movies, tower)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert tower.n_frames == 0
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_a_sentence(tmp_path):
    """No traceback for a folder that is missing."""
    frames, movies = two_movies()
    with pytest.raises(UserError, match="No such file or directory"):
        fill_patches(tmp_path / "no" / "patches.safetensors", frames, movies, ArithmeticTower())


def test_no_frames_are_a_misuse(tmp_path):
    """An empty table is a bug of the caller."""
    nothing = np.empty(0, np.int64)
    with pytest.raises(MisuseError, match="one frame or more"):
        fill_patches(
            tmp_path / "p.safetensors", FrameTable((), nothing, nothing, ()), {}, ArithmeticTower()
        )


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff" * 100, b"\x02\0\0\0\0\0\0\0{}", b"\x02\0\0\0\0\0\0\0[]"],
    ids=["empty", "noise", "no tensor", "a list"],
)
def test_a_file_of_something_else_is_refused(tmp_path, content):
    """What is no file of patches is refused by name."""
    path = tmp_path / "patches.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{re.escape(str(path))} must hold one whole tensor"):
        open_patches(path)


def test_a_file_cut_short_is_refused(tmp_path):
    """A copy that ended early is not mapped."""
    frames, movies = two_movies()
    path = tmp_path / "patches.safetensors"
    fill_patches(path, frames, movies, ArithmeticTower())
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match="must hold one whole tensor"):
        open_patches(path)


def test_a_progress_file_of_noise_is_refused(tmp_path):
    """What is done cannot be guessed."""
    frames, movies = two_movies()
    path = tmp_path / "patches.safetensors"
    _fill(path, stop_at=3)
    (tmp_path / "patches.safetensors.progress").write_text("{")
    with pytest.raises(UserError, match="does not say how far"):
        fill_patches(path, frames, movies, ArithmeticTower())


def _fill(path, stop_at):
    """Fill a file, or begin to."""
    tower = ArithmeticTower(stop_at=stop_at)
    if stop_at is None:
        fill_patches(path, *two_movies(), tower)
    else:
        with pytest.raises(KeyboardInterrupt):
            fill_patches(path, *two_movies(), tower)
