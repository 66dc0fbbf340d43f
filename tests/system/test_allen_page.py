"""Every command of ``docs/allen-session.md``, in its order, on a small session and LLaVA."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from contracts.manifest import load_manifest
from encoder_training.frames.movies import find_movies
from evaluation.narrations.sbert import word_salads
from evaluation.simulated_encoder import SHIPPED_MODEL
from neurrate.cli import main
from tests.support.page_commands import Terminals, page_commands
from tests.support.pictures import no_drawing
from tests.support.range_server import range_server
from tests.support.sentence_models import write_tiny_bert
from tests.support.short_day import write_short_day

PAGE = Path(__file__).parents[2] / "docs" / "allen-session.md"

ASSET = "sub-699733573/sub-699733573_ses-715093703.nwb"

LLAVA = "llava-hf/llava-1.5-7b-hf"

SHORTER = {
    "learn": ("--size", "tiny", "--training-epochs", "1", "--device", "cpu"),
    "score": ("--windows", "20", "--sentence-model", "bert"),
}
"""What a command is given more, so that it does not take hours."""


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Serve a short day as the asset of the page; return the movie's file, as Allen's is."""
    folder = tmp_path / "archive"
    (folder / ASSET).parent.mkdir(parents=True)
    session = write_short_day(folder / ASSET, one=(6, 15), three=(2, 15))
    movie = tmp_path / "fetched"
    shown = find_movies(session.movies, ["natural_movie_one"])["natural_movie_one"]
    with movie.open("wb") as file:
        np.save(file, shown.frames(0, shown.n_frames))
    for name, value in (("XDG_CACHE_HOME", str(tmp_path / "cache")), ("HF_HUB_OFFLINE", "1")):
        monkeypatch.setenv(name, value)
    with range_server(folder) as server:
        server.signature_lasts = 100
        server.dandisets = {"000021@draft": {}, "000021@0.220126.1855": {ASSET: None}}
        monkeypatch.setenv("DANDI_API_URL", server.url("api"))
        yield movie


@pytest.mark.slow
@pytest.mark.timeout(1200)  # a training and three processes, on a busy machine
def test_every_command_does_what_the_page_says(
    archive: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From the archive to sentences of the daemon; a second training finds all done."""
    monkeypatch.chdir(tmp_path)
    write_tiny_bert(tmp_path / "bert", word_salads(0))
    replayed = []
    for words in page_commands(PAGE, {"--start 2850": "--start 2 --seconds 12"}):
        match words[:2]:
            case ["curl", _]:
                shutil.copy(archive, words[words.index("-o") + 1])
            case ["mkdir", _]:
                subprocess.run(words, check=True)
            case ["neurrate", "run" | "stream" | "watch"]:
                replayed.append(words)
            case ["neurrate", verb]:
                small = [word.replace(LLAVA, str(SHIPPED_MODEL)) for word in words[1:]]
                with no_drawing():
                    assert main([*small, *SHORTER.get(verb, ())]) == 0
                printed = capsys.readouterr().out
                if verb == "inspect":
                    assert "natural_movie_one 360" in printed
                if verb == "learn":
                    sha256 = load_manifest(Path("out/bundle")).sha256
                    assert main([*small, *SHORTER[verb]]) == 0
                    assert capsys.readouterr().out.count("is finished") == 3
                    assert load_manifest(Path("out/bundle")).sha256 == sha256
    run, stream, watch = replayed
    with Terminals(tmp_path) as terminals:
        terminals.narrate(run, watch, stream, ("all", "VISp", "LGd", "shuffled", "silent"))
