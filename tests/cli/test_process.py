"""A command as a process: whatever its output is, and whenever it is stopped."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from neurrate.verbs import GROUPS, VERBS
from simulation.recording import write_recording
from tests.support.wait_until import wait_until

PROGRAM = (sys.executable, "-m", "neurrate")
TIMEOUT_S = 60.0

ASCII_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
ENVIRONMENTS = ({"PYTHONIOENCODING": "ascii"}, ASCII_LOCALE, {"COLUMNS": "0", "LINES": "0"})
REDIRECTIONS = (">&-", "2>&-", "<&- >&- 2>&-", "2>/dev/full", ">/dev/null 2>/dev/full")

EVERY_VERB = [
    *([name] for name in VERBS),
    *([group, name] for group, (_, verbs) in GROUPS.items() for name in verbs),
]


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording whose name has letters that ASCII lacks, and a byte that is no text."""
    path = tmp_path_factory.mktemp("ä") / os.fsdecode(b"s\xc3\xbcd\xef.nwb")
    write_recording(path, seconds=1.0, n_units=8, seed=0)
    return path


@pytest.fixture(params=["config show", "inspect RECORDING", "watch --seconds 0.1", "nothing"])
def command(request, recording) -> tuple[list[str], int]:
    """A command line, and its exit code where all is well."""
    words = [str(recording) if word == "RECORDING" else word for word in request.param.split()]
    return [*PROGRAM, *words], 2 if words == ["nothing"] else 0


def _run(
    command: Sequence[str], environment: Mapping[str, str] | None = None, redirection: str = ""
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {redirection}', "sh", *command],
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=TIMEOUT_S,
        check=False,
        env={**os.environ, **(environment or {})},
    )


def test_any_letter_can_be_printed(command):
    """A terminal without the letter gets an escape, and one without a size 80 columns."""
    words, code = command
    for environment in ENVIRONMENTS:
        done = _run(words, environment)
        assert (done.returncode, "Traceback" in done.stderr) == (code, False), environment
        assert environment == ENVIRONMENTS[-1] or done.stdout.isascii()


def test_closed_and_full_descriptors_change_nothing_else(command):
    """Whatever the caller has closed, or cannot take what is told, the exit code is the verb's."""
    words, code = command
    for redirection in REDIRECTIONS:
        done = _run(words, redirection=redirection)
        assert (done.returncode, "Traceback" in done.stderr) == (code, False), redirection


def test_a_full_output_is_said(command):
    """Nothing was printed, which is no success: one sentence and exit code 2."""
    words, code = command
    done = _run(words, redirection=">/dev/full")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert ("Cannot write standard output: no space left on device" in done.stderr) is (code == 0)


def test_a_reader_that_has_gone_is_no_error(command):
    """``| head -1`` takes what it wants, and what the verb makes is made."""
    words, code = command
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as output:
        done = subprocess.run(
            words, stdout=output, stderr=subprocess.PIPE, timeout=TIMEOUT_S, check=False
        )
    assert (done.returncode, b"Traceback" in done.stderr) == (code, False)


def test_files_are_written_though_nobody_reads_the_output(recording, tmp_path):
    """The JSON comes after the table, and a reader of the table that has gone costs no file."""
    out = tmp_path / "recording.json"
    done = _run([*PROGRAM, "inspect", str(recording), "--json", str(out)], redirection=">/dev/full")
    assert done.returncode == 2
    assert r"\udcef.nwb" in out.read_text(encoding="utf-8")


@pytest.mark.parametrize("verb", EVERY_VERB, ids=" ".join)
def test_the_help_of_every_verb_can_be_printed_anywhere(verb):
    """Every verb's module is behind the same boundary."""
    done = _run([*PROGRAM, *verb, "--help"], {**ASCII_LOCALE, "COLUMNS": "1"})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()


def test_a_terminal_without_a_size_is_a_terminal(command):
    """A terminal of 0 columns and 0 rows, as a serial console or a container has."""
    words, code = command
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 0, 0, 0, 0))
    with subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = b"".join(_read(ours))
        assert process.wait(TIMEOUT_S) == code
    assert b"Traceback" not in shown
    os.close(ours)


def _read(terminal: int) -> Iterator[bytes]:
    try:
        while content := os.read(terminal, 65_536):
            yield content
    except OSError:  # EIO: the other end is closed
        return


@pytest.mark.parametrize(
    ("words", "number", "code"),
    [
        ("inspect RECORDING", signal.SIGINT, 130),
        ("inspect RECORDING", signal.SIGTERM, 143),
        ("watch", signal.SIGINT, 0),
        ("watch", signal.SIGTERM, 0),
    ],
)
@pytest.mark.parametrize("delay_s", [0.0, 0.03, 0.1])
def test_a_signal_is_understood_from_the_first_moment_on(words, number, code, delay_s, recording):
    """While libraries are imported too: no traceback, and the exit code of a stopped verb."""
    command = [*PROGRAM, *(str(recording) if w == "RECORDING" else w for w in words.split())]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=_heed_control_c
    ) as process:
        # Before, Python itself is being loaded, and no program's code has a say.
        wait_until(lambda: _handles(process.pid, signal.SIGTERM))
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(delay_s)
        process.send_signal(number)
        _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == code
    assert b"Traceback" not in errors
    assert b"ignored" not in errors


def _heed_control_c() -> None:
    """Undo what a shell does to tests in the background, and their children inherit."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _handles(pid: int, number: signal.Signals) -> bool:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    (caught,) = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")]
    return bool(int(caught, 16) >> (number - 1) & 1)


DISCARDING = """
import os, signal, sys, time
from neurrate import cli, process

class Finalized:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(100): pass

def finalize():
    Finalized()

def catch_everything():
    try: os.kill(os.getpid(), signal.SIGTERM)
    except: pass

def main(words):
    try:
        {what}()
        try: time.sleep(10)
        finally:
            time.sleep(0.5)
            print("cleaned up")
    except KeyboardInterrupt:
        return process.stopped(words)

cli.main = main
sys.exit(process.run_process(["train"]))
"""


@pytest.mark.parametrize("what", ["finalize", "catch_everything"])
def test_a_signal_that_a_library_discards_is_not_lost(what):
    """What would go on after control-C is asked again; what is being ended is left in peace."""
    done = _run([sys.executable, "-c", DISCARDING.format(what=what)])
    assert done.returncode == 143
    assert done.stdout == "cleaned up\n"
    assert done.stderr == (
        "neurrate: stopped before the end. Give the same command again to continue where it "
        "stopped.\n"
    )
