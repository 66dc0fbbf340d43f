"""One fault in real processes: sources, daemons and subscribers, and what they show.

A method that observes something waits for it, notes it for the table, and fails the case if it does
not come. When the trial ends every process is killed, and none of their children may be left.
"""

from __future__ import annotations

import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from secrets import token_hex
from types import TracebackType
from typing import Any, Self

import psutil

from contracts.errors import listed
from contracts.journal_reader import JournalReader
from evaluation.faults.inputs import FaultInputs
from evaluation.faults.observations import (
    DEADLINE_S,
    ExpectationError,
    Observations,
    expect,
    wait_for,
)
from evaluation.faults.sockets import free_port
from evaluation.latency.process_usage import worker_of
from evaluation.processes import ERROR_PREFIX, Child, read_json

MARK = "FAULT_TRIAL"
"""Variable in the environment of every process of a trial, and so of their children."""

SETTINGS = (
    "narrator.backend=retrieval", "http.port=0", "log.format=json", "ingest.stream_timeout_s=1",
    "service.shutdown_s=5",
)  # fmt: skip

ORPHANS_S = 10.0
"""How long the children of a process that was killed may take to end: they import libraries."""

SETTLED_S = 0.3  # Sources send every 20 ms or more often
N_SETTLED = 4  # Equal readings of a counter that has stopped rising

MAX_GROWTH_MB = 100.0
MAX_QUOTE = 240  # Characters of a log line or a sentence in the table

NARRATED = 'neurrate_narrations_total{status="ok"}'


class FaultProcess:
    """A ``neurrate`` command of a trial, and its log."""

    def __init__(self, name: str, child: Child, observations: Observations, json_: Path) -> None:
        self.child = child
        self._name = name
        self._observations = observations
        self._json = json_

    def events(self) -> list[dict[str, Any]]:
        """Return the log lines so far."""
        lines = self.child.text().splitlines()
        return [json.loads(line) for line in lines if line.startswith('{"time"')]

    def logs(self, event: str, *, level: str = "") -> None:
        """Observe a log line by its phrase."""

        def look() -> dict[str, Any] | None:
            found = (line for line in self.events() if event in line["event"])
            return next((line for line in found if level in ("", line["level"])), None)

        line = wait_for(look, lambda: f"log line {event!r} in {self._tail()}")
        fields = (f"{k}={v}" for k, v in line.items() if k not in _NOT_FIELDS)
        self._sees(f"log: `{line['level']} {' '.join((line['event'], *fields))}`")

    def ends(self, code: int, text: str = "", *, deadline_s: float = DEADLINE_S) -> None:
        """Observe its exit code, and the sentence that it ends with."""
        found = self.child.exit_code(deadline_s=deadline_s)
        output = self.child.text()
        sentence = " ".join(output.rpartition(ERROR_PREFIX)[2].split())
        expect(found == code, f"exit code {code}, got {found}: {output[-2000:]}")
        expect(text in sentence, f"{text!r} in {sentence[-2000:]!r}")
        expect("Traceback" not in output, f"no traceback, got {output[-2000:]}")
        self._sees(f"exit code {code}" + (f": `{_shortened(sentence)}`" if text else ""))

    def summary(self) -> Mapping[str, Any]:
        """Return what it wrote at its end."""
        return dict(read_json(self._json))

    def _sees(self, quote: str) -> None:
        quote = quote.replace(f"{self._json.parent}/", "…/")  # the trial's own folder
        self._observations.sees.append(f"{self._name} {quote}" if self._name != "daemon" else quote)

    def _tail(self) -> str:
        return self.child.text()[-1000:]


class FaultDaemon(FaultProcess):
    """A daemon: its log, its pages, its counters."""

    _before: Mapping[str, float] = {}

    @property
    def publish(self) -> str:
        """Address of its narrations."""
        return self.child.addresses(deadline_s=DEADLINE_S)["publish"]

    @property
    def http(self) -> str:
        """Address of its pages."""
        return self.child.addresses(deadline_s=DEADLINE_S)["http"]

    @property
    def worker_pid(self) -> int:
        """Process id of its narrator worker, once there is one."""
        return wait_for(lambda: worker_of(self.child.pid), lambda: "a narrator worker")

    def page(self, path: str) -> tuple[int, str]:
        """Return status and body of a page.

        Raises
        ------
        ExpectationError
            With its last words, if it does not answer.
        """
        try:
            return get(self.http + path)
        except OSError as error:
            raise ExpectationError(f"no answer from {path}: {error}; {self._tail()}") from error

    def metrics(self) -> dict[str, float]:
        """Return the samples of ``/metrics`` by name and labels."""
        lines = self.page("/metrics")[1].splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def narrates(self, n: int = 3) -> Self:
        """Wait for further narrations."""
        first = self.metrics().get(NARRATED, 0)

        def look() -> bool | None:
            return self.metrics().get(NARRATED, 0) >= first + n or None

        wait_for(look, lambda: f"{n} narrations after {first:.0f}; {self._tail()}")
        self._before = self._before or self.metrics()
        return self

    def is_ready(self) -> None:
        """Observe that it is ready."""
        wait_for(
            lambda: self.page("/readyz")[0] == 200 or None,
            lambda: f"ready, got {self.page('/readyz')}",
        )
        self._sees("`/readyz` 200")

    def notes(self, text: str) -> None:
        """Observe that it is ready, and what it does without."""

        def look() -> str | None:
            notes = json.loads(self.page("/readyz")[1])["notes"]
            return next((note for note in notes if text in note), None)

        note = wait_for(look, lambda: f"/readyz with {text!r}, got {self.page('/readyz')}")
        self.is_ready()
        self._sees(f"with the note `{_shortened(note)}`")

    def is_not_ready(self, reason: str) -> None:
        """Observe that it is not ready, and why."""

        def look() -> str | None:
            status, body = self.page("/readyz")
            reasons = json.loads(body)["reasons"] if status == 503 else []
            return next((text for text in reasons if reason in text), None)

        text = wait_for(look, lambda: f"/readyz with {reason!r}, got {self.page('/readyz')}")
        self._sees(f"`/readyz` 503: `{_shortened(text)}`")

    def counts(self, metric: str, *, at_least: float = 1, exactly: float | None = None) -> None:
        """Observe by how much a counter has risen since it first narrated."""
        wanted = at_least if exactly is None else exactly

        def look() -> float | None:
            now = self.metrics()
            expect(metric in now, f"a metric {metric}; there are {', '.join(sorted(now))}")
            rise = now[metric] - self._before.get(metric, 0)
            return rise if rise >= wanted else None

        rise = wait_for(look, lambda: f"{metric} risen by {wanted}, got {self.metrics()[metric]}")
        expect(exactly in (None, rise), f"{metric} risen by {exactly}, got {rise}")
        self._observations.counted.append(f"`{metric}` +{rise:,.0f}")

    def does_not_grow(self, before_mb: float) -> None:
        """Check that it and its children hold no more than 100 MB above `before_mb`."""
        grown_mb = self.memory_mb() - before_mb
        expect(grown_mb < MAX_GROWTH_MB, f"less than {MAX_GROWTH_MB} MB more, got {grown_mb:.0f}")

    def memory_mb(self) -> float:
        """Return the resident memory of it and its children, 10**6 bytes."""
        own = psutil.Process(self.child.pid)
        processes = [own, *own.children(recursive=True)]
        return float(sum(process.memory_info().rss for process in processes) / 1e6)


class FaultTrial:
    """Starts the processes of one case in a folder of its own."""

    def __init__(self, inputs: FaultInputs, folder: Path) -> None:
        self.inputs = inputs
        self.folder = folder
        self.observations = Observations()
        self.stack = ExitStack()
        self.temporary = folder / "tmp"
        self.temporary.mkdir(parents=True)
        self._token = token_hex(8)
        self._n_started = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stack.close()
        try:
            if error is None:
                self.leaves_no_process()
        finally:
            for process in self.orphans():
                process.kill()

    def start(
        self,
        name: str,
        *words: object,
        prefix: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> FaultProcess:
        """Start a command."""
        kind = FaultDaemon if words[0] == "run" else FaultProcess
        self._n_started += 1
        unique = f"{name}-{self._n_started}"
        own = {MARK: self._token, "TMPDIR": str(self.temporary), **(environment or {})}
        arguments = [str(word) for word in words]
        child = Child(
            unique,
            arguments,
            self.folder,
            prefix=prefix,
            environment=own,
            has_addresses=words[0] != "watch",
        )
        self.stack.enter_context(child)
        return kind(name, child, self.observations, self.folder / f"{unique}.json")

    def address(self) -> str:
        """Return a loopback address that nobody has bound."""
        return f"tcp://127.0.0.1:{free_port()}"

    def source(
        self, address: str, *words: object, recording: Path | None = None, name: str = "source"
    ) -> FaultProcess:
        """Start a source, which begins when somebody subscribes."""
        recording = recording or self.inputs.recording
        return self.start(name, "stream", "nwb", recording, "--bind", address, *words)

    def daemon(
        self,
        *sources: str,
        settings: Sequence[str] = (),
        publish: str = "tcp://127.0.0.1:*",
        bundle: Path | None = None,
        **options: Any,
    ) -> FaultDaemon:
        """Start a daemon that listens to sources; `settings` are as after ``--set``.

        `options` are those of `start`.
        """
        connect = [word for source in sources for word in ("--connect", source)]
        given = [word for setting in (*SETTINGS, *settings) for word in ("--set", setting)]
        daemon = self.start(
            "daemon", "run", "--bundle", bundle or self.inputs.bundle, "--publish", publish,
            *connect, *given, **options,
        )  # fmt: skip
        assert isinstance(daemon, FaultDaemon)  # noqa: S101 - for the type checker
        return daemon

    def subscriber(self, publish: str) -> FaultProcess:
        """Start a subscriber to narrations."""
        return self.start("subscriber", "watch", "--connect", publish, "--plain")

    @property
    def journal(self) -> Path:
        """Folder that the recorders of this trial write to."""
        return self.folder / "journal"

    def recorder(
        self, source: str, publish: str, *words: object, prefix: Sequence[str] = ()
    ) -> FaultProcess:
        """Start a recorder of a source and a daemon."""
        addresses = ("--spikes", source, "--connect", publish)
        given = (*addresses, *(words or ("--min-free-mb", 1)))
        return self.start("recorder", "record", self.journal, *given, prefix=prefix)

    def records(self, n: int) -> None:
        """Wait until the journal has so many messages."""

        def look() -> bool | None:
            if not self.journal.is_dir() or not any(self.journal.iterdir()):
                return None
            return sum(1 for _ in JournalReader(self.journal).messages()) >= n or None

        wait_for(look, lambda: f"{n} messages in {self.journal}")

    def pair(self, *, speed: str = "1", **options: Any) -> tuple[FaultProcess, FaultDaemon, str]:
        """Start a source and a daemon that narrates it; also return the source's address.

        `options` are those of `daemon`.
        """
        address = self.address()
        source = self.source(address, "--speed", speed)
        daemon = self.daemon(address, **options)
        return source, daemon.narrates(), address

    def ends_with_every_spike(self, daemon: FaultDaemon, *sources: FaultProcess) -> int:
        """Stop sources and daemon gently; every spike that arrived must be binned or counted.

        Returns how many spikes the sources have sent.
        """
        for source in sources:
            source.child.ask_to_stop()
            source.child.wait(deadline_s=DEADLINE_S)
        n_sent = sum(int(source.summary()["n_spikes"]) for source in sources)
        self.settled(daemon, "neurrate_spikes_received_total")
        daemon.child.ask_to_stop()
        daemon.child.wait(deadline_s=DEADLINE_S)
        counters = daemon.summary()["counters"]
        n_received, n_binned, n_late, n_unknown = (
            counters[f"spikes_{name}"] for name in ("received", "binned", "late", "unknown")
        )
        text = f"{n_received:,} received = {n_binned:,} binned + {n_late:,} late"
        expect(n_received == n_binned + n_late + n_unknown, f"{text} + {n_unknown:,} unknown")
        self.observations.lost.append(f"spikes: {n_sent:,} sent, {text}")
        return n_sent

    def settled(self, daemon: FaultDaemon, metric: str) -> int:
        """Return a counter once it has stopped rising: what is on its way arrives in ms."""
        readings = [daemon.metrics()[metric]]
        # Several in a row, for a loop that is held up counts nothing for a while.
        while len(readings) < N_SETTLED or len(set(readings[-N_SETTLED:])) > 1:
            time.sleep(SETTLED_S)
            readings.append(daemon.metrics()[metric])
        return round(readings[-1])

    def leaves_no_process(self) -> None:
        """Check that the children of killed processes end by themselves."""
        wait_for(
            lambda: None if self.orphans() else True,
            lambda: f"no process left behind, got {listed(self.orphans())}",
            deadline_s=ORPHANS_S,
        )

    def orphans(self) -> list[psutil.Process]:
        """Return the processes of this trial that still run."""
        left = []
        for process in psutil.process_iter():
            try:
                is_ours = process.environ().get(MARK) == self._token
                if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                    left.append(process)
            except psutil.Error:
                continue
        return left


def get(url: str) -> tuple[int, str]:
    """Return status and body of a page."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


_NOT_FIELDS = ("time", "level", "logger", "event", "traceback")


def _shortened(text: str) -> str:
    # Folders of the trial, but not the slashes of addresses and of paths in the project.
    text = re.sub(r"(?:(?<=ipc://)|(?<![:/\w]))/\S*/(?=\S)", "…/", text).replace("`", "'")
    return text if len(text) <= MAX_QUOTE else f"{text[:MAX_QUOTE]}…"
