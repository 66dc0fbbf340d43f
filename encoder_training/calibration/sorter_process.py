"""A sorter of SpikeInterface in a process of its own, which ends with everything that it started.

Sorters start pools of processes. Where control-C reaches all of them, one may wait for ever for an
answer of another, and what a killed sorter has started goes on. Hence the process leads a group of
its own, which is killed as a whole, by us or by itself once its standard input is closed.

Run as ``python -m encoder_training.calibration.sorter_process`` with a request in JSON.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

from stream_sources.online_sorter.compiled_cache import cache_compiled

RECORDING = "recording.json"
"""What the sorter reads, as SpikeInterface describes it."""

LOG = "sorter.log"
"""What the sorter prints, and its error."""

OUTPUT = "output"
"""Folder of the sorter's own files."""

SPIKES = "spikes"
"""Folder of its result."""

READ_BYTES = 64


class SorterError(Exception):
    """The sorter's process ended with an error; the text is what it printed."""


def run_in_process(recording: Any, sorter: str, work: Path, parameters: dict[str, Any]) -> Any:
    """Sort a recording in a process of its own.

    Parameters
    ----------
    recording : spikeinterface.BaseRecording
        Of files: the process opens them itself.
    work : Path
        An empty folder, for whatever the sorter writes.

    Returns
    -------
    sorting : spikeinterface.BaseSorting

    Raises
    ------
    SorterError
        If the process ends with an error.
    """
    import spikeinterface

    recording.dump_to_json(work / RECORDING, relative_to=work)
    request = json.dumps({"work": str(work.resolve()), "sorter": sorter, "parameters": parameters})
    log = work / LOG
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, request],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        code = process.wait()
    finally:
        _kill_group(process.pid)
        process.wait()
        if process.stdin is not None:
            process.stdin.close()
    if code < 0:
        name = signal.Signals(-code).name
        hint = ", as the system does when memory is short" if -code == signal.SIGKILL else ""
        raise SorterError(f"it was ended by {name}{hint}")
    if code:
        raise SorterError(log.read_text(encoding="utf-8", errors="replace"))
    return spikeinterface.load(work / SPIKES)


def _kill_group(number: int) -> None:
    """Kill what the process has started and left, and itself if it is still there."""
    try:
        os.killpg(number, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _end_with_parent() -> None:
    """Kill the whole group once standard input ends: the parent is no more."""
    while os.read(sys.stdin.fileno(), READ_BYTES):
        pass
    os.killpg(os.getpgid(0), signal.SIGKILL)


def main(request: str) -> None:
    """Sort, and save the spikes."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cache_compiled()
    import spikeinterface
    from spikeinterface.sorters import run_sorter

    asked = json.loads(request)
    work = Path(asked["work"])
    warnings.simplefilter("ignore")  # of libraries, about their own future
    recording = spikeinterface.load(work / RECORDING, base_folder=work)
    sorting = run_sorter(
        asked["sorter"], recording, folder=work / OUTPUT, verbose=False, **asked["parameters"]
    )
    sorting.save(folder=work / SPIKES, format="numpy_folder")


if __name__ == "__main__":
    main(sys.argv[1])
