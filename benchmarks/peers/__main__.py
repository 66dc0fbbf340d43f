"""One side of one contender: ``python -m benchmarks.peers NAME SIDE CORE CASE``.

`CASE` is JSON. A receiver prints what it measured, as JSON.
"""

import importlib
import json
import os
import sys
from importlib.metadata import PackageNotFoundError, version

LIBRARIES = ("numpy", "pyzmq", "msgpack", "ezmsg", "timeflux", "pandas", "pylsl")


def main() -> None:
    """Run it on its core, which every thread and process that it makes inherits."""
    name, side, core, case = sys.argv[1:]
    os.sched_setaffinity(0, [int(core)])
    work = importlib.import_module("benchmarks.peers.work")
    module, _, options = name.partition(":")
    pair = importlib.import_module(f"benchmarks.peers.{module}")
    run = getattr(pair, side)
    measured = run(work.Case(**json.loads(case)), *filter(None, [options]))
    if measured is not None:
        print(json.dumps({**measured, "versions": _versions()}))


def _versions() -> dict[str, str]:
    found = {}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    main()
