"""The commands of README and of the pages, run as they are printed, in their order."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from contracts.journal import Origin
from contracts.journal_reader import JournalReader
from contracts.manifest import Manifest
from neurrate.cli import main
from tests.support.page_commands import Terminals, interrupt, page_commands
from tests.support.pictures import no_drawing
from tests.support.processes import get

ROOT = Path(__file__).parents[2]

README = ROOT / "README.md"

LIVE = ("run", "watch", "stream")
"""Each in a terminal of its own."""

ELSEWHERE = {"make", "pip", "git"}
"""What sets a machine up is run by CI itself."""

SHORTER = {
    "session.nwb --minutes 3": "session.nwb --minutes 1.5",
    "--start 30": "--start 30 --seconds 8",
    "--recording session.nwb --seconds 60": "--recording session.nwb --seconds 4",
    "--size small --training-epochs 3": "--size tiny --training-epochs 1",
    "--picture rules.png": "--picture rules.png --start 30 --seconds 10",
    r"neurrate demo$": "neurrate demo --seconds 4",
}
"""What is written in place of what README says, so that it takes minutes; nothing else is."""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a fresh folder with what the commands name of a checkout."""
    for name in ("configs", "simulation"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.timeout(1200)  # three minutes of processor time, in several processes
def test_every_command_of_readme(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the doctor to an encoder of one's own, narrated beside its controls."""
    commands = [words for words in page_commands(README, SHORTER) if words[0] not in ELSEWHERE]
    live: dict[str, list[str]] = {}
    with Terminals(checkout) as terminals, readers_program(terminals) as received:
        for number, (words, following) in enumerate(pairwise([*commands, ["", ""]])):
            if words[1] in LIVE:
                live[words[1]] = words
                if following[1] not in LIVE:  # what is not named is as it was before
                    run, watch, stream = (live[verb] for verb in LIVE)
                    terminals.narrate(run, watch, stream, populations_of(run))
            elif commands.index(words) == number:  # the doctor is named twice
                with no_drawing():
                    assert main(words[1:]) == 0, capsys.readouterr()
    lines = received.read_text().splitlines()
    assert lines
    assert all(float(line.split()[0]) > 30 for line in lines)
    assert Path("rules.png").exists()


REASONS = {
    "README.md": "run here",
    "docs/recording.md": "run here",
    "docs/dashboard.md": "the first is run here; the others need a browser or another machine",
    "docs/allen-session.md": "run by tests/system/test_allen_page.py",
    "clients/python/README.md": "tests/clients/test_python_readme.py runs its wheel",
    "docs/metrics.md": "tests/system/test_alerts.py and test_prometheus.py run both programs",
    "docs/open-ephys.md": "tests/system/test_open_ephys.py runs emulator and source, with no GUI",
    "docs/spikeglx.md": "needs SpikeGLX; tests/system/test_rehearse.py runs the emulator",
    "docs/several-probes.md": "needs two probes; tests/system/test_stream_clocks.py emulates them",
    "docs/at-a-rig.md": "needs a rig; tests/system/test_rehearse.py does these steps",
    "docs/calibration.md": "needs raw voltages; tests/system/test_rehearse.py does these steps",
    "docs/online-sorter.md": "needs raw voltages; tests/system/test_rehearse.py does these steps",
    "docs/evaluate.md": "takes an hour; tests/evaluation answers each question on little data",
    "docs/single-units.md": "takes an hour; tests/evaluation answers it on little data",
    "docs/controlled-clips.md": "tests/system/test_clips.py does its steps",
    "docs/released-checkpoints.md": "needs the authors' checkpoint, and LLaVA of 7 billion weights",
    "docs/scores-of-a-recording.md": "needs LLaVA of 7 billion weights; tests/system/test_score.py",
    "CONTRIBUTING.md": "make",
}
"""Each page with commands, and where they are run; all are parsed by tests/cli."""


def test_every_page_with_commands_is_listed() -> None:
    """A new page is run by a test, or has a reason why not."""
    pages = [
        README,
        ROOT / "CONTRIBUTING.md",
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("clients/**/*.md"),
    ]
    found = {str(page.relative_to(ROOT)) for page in pages if page_commands(page)}
    assert found == set(REASONS)
    named = re.findall(r"tests/[\w/]+\.py", " ".join(REASONS.values()))
    assert [one for one in named if not (ROOT / one).exists()] == []


def test_every_command_of_the_recorders_page(
    recording: Path, tiny_bundle: Manifest, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three recordings in one journal, replayed whole and in part, and exported."""
    # Parts are numbered from 0, and two have been recorded where the page plays one.
    faster = {"part-00002": "part-00001", r"(stream journal \S+)$": r"\1 --speed 40"}
    run = ["neurrate", "run", "--bundle", str(tiny_bundle.folder), "--narrator", "retrieval"]
    source = ["neurrate", "stream", "nwb", str(recording), "--stream", "probeA", "--speed", "40"]
    with Terminals(checkout) as terminals:
        daemon = terminals.start(run, shows="daemon listens")
        for words in page_commands(ROOT / "docs" / "recording.md", faster):
            if words[1] == "record":
                recorder = terminals.start(words, shows="recording")
                assert terminals.start(source).wait() == 0
                interrupt(recorder)
            elif words[1] == "stream":
                replay = terminals.start(words)
                assert replay.wait() == 0, replay.text()
            else:
                assert main(words[1:]) == 0, capsys.readouterr()
        interrupt(daemon)
    counted = JournalReader(Path("journal")).messages(lambda origin, _: origin is Origin.SOURCE)
    ended = [one for one in counted if one.topic == "end.probeA"]
    assert len(ended) == 3
    assert Path("session.nwb").exists()


def test_the_dashboard_of_its_page(checkout: Path) -> None:
    """It serves the page, with a daemon or without."""
    with Terminals(checkout) as terminals:
        started = terminals.start(
            page_commands(ROOT / "docs" / "dashboard.md")[0], shows="The page of"
        )
        status, text = get(started.addresses()["page"])
        assert status == 200
        assert "<canvas" in text
        interrupt(started)


def populations_of(run: list[str]) -> list[str]:
    """Return the populations that a daemon is started with."""
    if "--populations" not in run:
        return ["all"]
    return run[run.index("--populations") + 1].split(",")


@contextmanager
def readers_program(terminals: Terminals) -> Iterator[Path]:
    """Run the program of README that subscribes; yield the file that it prints to."""
    [program] = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert "tcp://127.0.0.1:5571" in program
    printed = Path("printed.txt")
    code = program.replace("tcp://127.0.0.1:5571", terminals.narrations)
    with (
        printed.open("wb") as file,
        subprocess.Popen([sys.executable, "-u", "-c", code], stdout=file) as subscriber,
    ):
        try:
            yield printed
        finally:
            subscriber.kill()
