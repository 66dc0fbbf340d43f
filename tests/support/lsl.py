"""The Lab Streaming Layer for tests: nothing is asked beyond this machine.

liblsl reads its configuration once, when it is first used: tests import `pylsl` from here.
"""

from __future__ import annotations

import os
import tempfile
import uuid
from pathlib import Path
from typing import Any

from tests.support.wait_until import wait_until

CONFIG = "[multicast]\nResolveScope = machine\n[lab]\nKnownPeers = {127.0.0.1}\n[log]\nlevel = -3\n"

with tempfile.TemporaryDirectory() as _folder:
    _path = Path(_folder) / "lsl.cfg"
    _path.write_text(CONFIG, encoding="utf-8")
    os.environ["LSLAPICFG"] = str(_path)
    import pylsl as pylsl

    pylsl.local_clock()
    pylsl.library_info()
    _outlet = pylsl.StreamOutlet(pylsl.StreamInfo("configured", "", 1, 0, "int8", uuid.uuid4().hex))
    del _outlet


def unique(name: str) -> str:
    """Return a name that no other test uses: all processes of this machine share LSL's names."""
    return f"{name}-{uuid.uuid4().hex}"


def inlet_of(source_id: str) -> Any:
    """Return an inlet of the stream with a ``source_id``, its stamps as they were sent."""
    found = pylsl.resolve_byprop("source_id", source_id, timeout=60)
    assert len(found) == 1
    inlet = pylsl.StreamInlet(found[0], processing_flags=0)
    inlet.open_stream(timeout=60)
    return inlet


def outlet_of(name: str, *, source_id: str = "", kind: str = "string", rate: float = 0.0) -> Any:
    """Return an outlet of one channel."""
    return pylsl.StreamOutlet(
        pylsl.StreamInfo(name, "Markers", 1, rate, kind, source_id or unique("id"))
    )


def wait_for_consumer(outlet: Any) -> None:
    """Return once somebody reads a stream."""
    wait_until(outlet.have_consumers, what="a consumer of an LSL stream")
