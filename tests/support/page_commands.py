"""The commands of a page of the documentation, as they are printed, and processes that run them."""

from __future__ import annotations

import re
import shlex
import signal
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from evaluation.faults.sockets import free_port
from tests.support.processes import DEADLINE_S, Neurrate
from tests.support.wait_until import wait_until

CONSOLE = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)


def page_commands(page: Path, replacements: Mapping[str, str] = {}) -> list[list[str]]:
    """Return the words of each command of a page: of two that ``&&`` joins, and without comments.

    Each key of `replacements`, a regular expression, is replaced by its value. One that matches
    nothing is an error: the page has another command now.
    """
    text = page.read_text(encoding="utf-8")
    lines = [line for block in CONSOLE.findall(text) for line in block.splitlines()]
    typed = "\n".join(line.removeprefix("$ ") for line in lines if line.startswith("$ "))
    typed = typed.replace(" && ", "\n").replace(".venv/bin/neurrate ", "neurrate ")
    for old, new in replacements.items():
        typed, n_replaced = re.subn(old, new, typed, flags=re.MULTILINE)
        assert n_replaced, f"no command of {page.name} has {old!r}"
    return [shlex.split(line, comments=True) for line in typed.splitlines()]


class Terminals:
    """Commands that go on until Control-C, each in a process of its own, on ports of their own.

    Parameters
    ----------
    folder : Path
        Of their logs.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running = ExitStack()
        self._n_started = 0
        self.spikes, self.narrations, self._other = (
            f"tcp://127.0.0.1:{free_port()}" for _ in range(3)
        )

    def __enter__(self) -> Terminals:
        return self

    def __exit__(self, *error: object) -> None:
        self._running.close()

    def start(self, words: list[str], *, shows: str = "") -> Neurrate:
        """Start a command of a page, and wait until it has printed `shows`."""
        verb = words[1]
        spikes, narrations = self.spikes, self.narrations
        typed = [
            word.replace("tcp://127.0.0.1:5570", spikes).replace(
                "tcp://127.0.0.1:5580", self._other
            )
            for word in words[1:]
        ]
        ports: dict[str, tuple[str, ...]] = {
            "run": ("--connect", spikes, "--publish", narrations, "--set", "http.port=0"),
            "stream": ("--bind", spikes),
            "watch": ("--connect", narrations),
            "dashboard": ("--connect", narrations, "--port", "0"),
            "record": ("--connect", narrations, "--spikes", spikes)[
                : 2 if "--spikes" in typed else 4
            ],
        }
        self._n_started += 1
        started = self._running.enter_context(
            Neurrate(
                *typed, *ports[verb], folder=self._folder, name=f"{verb}-{self._n_started}",
                has_addresses=verb != "watch",
            )
        )  # fmt: skip
        wait_to_show(started, shows)
        return started

    def narrate(
        self, run: list[str], watch: list[str], stream: list[str], shown: Sequence[str]
    ) -> None:
        """Replay from a source through a daemon until a viewer has shown all of `shown`.

        The daemon and the viewer are ended with Control-C, the source ends by itself. Every spike
        that it sent must have been binned.
        """
        daemon = self.start(run, shows="daemon listens")
        viewer = self.start(watch)
        source = self.start(stream)
        assert source.wait() == 0, source.text()
        wait_to_show(daemon, "stream ended")
        wait_to_show(viewer, *shown)
        interrupt(viewer)
        interrupt(daemon)
        assert daemon.summary()["counters"]["spikes_binned"] == source.summary()["n_spikes"] > 0


def wait_to_show(process: Neurrate, *texts: str) -> None:
    """Wait until a process that is running has printed all of these."""

    def has_shown() -> bool:
        printed = process.text()
        has_ended = process.process.poll() is not None
        assert not has_ended, f"ended before it had printed {texts}: {printed}"
        return all(text in printed for text in texts)

    what = f"{texts}, printed by {process.log.name}"
    wait_until(has_shown, deadline_s=DEADLINE_S, what=what)


def interrupt(process: Neurrate) -> None:
    """End a process as Control-C does, which is no error."""
    process.signal(signal.SIGINT)
    assert process.wait() == 0, process.text()
    assert "Traceback" not in process.text()
