"""Temporary folders end with their process, or at the next start."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from contracts.temporary_folder import TemporaryFolder

HOLD = (
    "import sys, subprocess; from contracts.temporary_folder import TemporaryFolder; "
    "folder = TemporaryFolder(); (folder.path / 'socket').touch(); "
    "child = subprocess.Popen(['sleep', '60']); print(folder.path, child.pid, flush=True); "
    "sys.stdin.read()"
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for temporary folders that nobody else uses."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_folder_of_a_killed_process_is_removed_by_the_next(place: Path):
    """SIGKILL leaves the folder, even one whose child lives on; the next folder removes it."""
    owner = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdin
    assert owner.stdout
    folder, child = owner.stdout.readline().split()
    with TemporaryFolder():
        assert Path(folder, "socket").exists()  # its owner lives
    owner.kill()
    owner.wait()
    owner.stdin.close()
    owner.stdout.close()
    assert Path(folder).exists()
    with TemporaryFolder() as own:
        assert list(place.iterdir()) == [own]
    assert list(place.iterdir()) == []
    os.kill(int(child), signal.SIGKILL)


def test_removal_that_is_broken_off_is_finished_by_the_next(
    place: Path, monkeypatch: pytest.MonkeyPatch
):
    """The file that marks a folder as ours goes last, so that the rest is found again."""
    folder = TemporaryFolder()
    (folder.path / "content").touch()

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", interrupt)
        with pytest.raises(KeyboardInterrupt):
            folder.close()
    assert [path.name for path in folder.path.iterdir()] == ["owner"]
    os.close(folder._descriptor)
    with TemporaryFolder() as own:
        assert list(place.iterdir()) == [own]


def test_what_is_not_ours_stays(place: Path, tmp_path_factory: pytest.TempPathFactory):
    """Folders without an owner's lock, files, links: none is followed or removed."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "owner").touch()
    (place / "neurrate-link").symlink_to(elsewhere)
    (place / "neurrate-file").touch()
    (place / "neurrate-results").mkdir()
    (place / "neurrate-odd").mkdir()
    (place / "neurrate-odd" / "owner").symlink_to(elsewhere / "owner")
    (place / "other").mkdir()
    (place / "other" / "owner").touch()
    before = sorted(place.iterdir())
    with TemporaryFolder():
        pass
    assert sorted(place.iterdir()) == before
    assert (elsewhere / "owner").exists()


def test_folder_may_be_closed_twice(place: Path):
    """Closing removes the folder; a second time does nothing."""
    folder = TemporaryFolder()
    assert folder.path.stat().st_mode & 0o777 == 0o700
    folder.close()
    folder.close()
    assert list(place.iterdir()) == []
