"""Two machines with a cable between them: network namespaces, one with a clock of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

RIG, GPU = "10.213.77.1", "10.213.77.2"

AHEAD_S = 5
"""The rig's clock."""


class TwoMachines:
    """A rig and a machine with a GPU, as far as network and clocks tell. Needs root."""

    def __init__(self) -> None:
        self._rig, self._gpu = (f"neurrate-{os.getpid()}-{name}" for name in ("rig", "gpu"))
        self._cables = ("neurrate-rig", "neurrate-gpu")
        _ip("netns", "add", self._gpu)
        self.build_rig()

    @property
    def on_rig(self) -> list[str]:
        """Words before a command that runs it at the rig."""
        clock = ["unshare", "--time", "--monotonic", str(AHEAD_S), "--fork", "--kill-child"]
        return ["ip", "netns", "exec", self._rig, *clock]

    @property
    def on_gpu(self) -> list[str]:
        """The same for the other machine."""
        return ["ip", "netns", "exec", self._gpu]

    def build_rig(self) -> None:
        """Start the rig, with the cable."""
        _ip("netns", "add", self._rig)
        here, there = self._cables
        ends = ["name", here, "netns", self._rig, "type", "veth", "peer", "name", there]
        _ip("link", "add", *ends, "netns", self._gpu)
        for namespace, cable, address in (
            (self._rig, here, RIG),
            (self._gpu, there, GPU),
        ):
            _ip("-n", namespace, "address", "add", f"{address}/30", "dev", cable)
            for device in ("lo", cable):
                _ip("-n", namespace, "link", "set", device, "up")

    def cut_power_of_rig(self) -> None:
        """End the rig's network without a word to anybody. Its programs are to be killed."""
        self.pull_cable()
        _ip("-n", self._rig, "link", "delete", self._cables[0])
        _ip("netns", "delete", self._rig)

    def pull_cable(self) -> None:
        """Nothing reaches the other side any more."""
        _ip("-n", self._gpu, "link", "set", self._cables[1], "down")

    def put_cable_back(self) -> None:
        """Connect both again."""
        _ip("-n", self._gpu, "link", "set", self._cables[1], "up")

    def metrics(self, url: str) -> dict[str, float]:
        """Return the GPU machine's metrics, by name and labels."""
        program = f"import urllib.request as r; print(r.urlopen({url!r}).read().decode())"
        command = [*self.on_gpu, sys.executable, "-c", program]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        lines = (line.rpartition(" ") for line in text.splitlines() if line[:1] not in {"", "#"})
        return {name: float(value) for name, _, value in lines}

    def close(self) -> None:
        """Remove both, and the cable."""
        for name in (self._rig, self._gpu):
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


@contextmanager
def two_machines() -> Iterator[TwoMachines]:
    """Yield two machines; skip the test where they cannot be made."""
    if os.geteuid() or not (shutil.which("ip") and shutil.which("unshare")):
        pytest.skip("needs root, iproute2 and util-linux for network namespaces")
    try:
        machines = TwoMachines()
        subprocess.run([*machines.on_rig, "true"], check=True, capture_output=True)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network or time namespaces are not permitted: {error.stderr.decode()}")
    try:
        yield machines
    finally:
        machines.close()


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
