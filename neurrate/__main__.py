"""The program ``neurrate``, also as ``python -m neurrate``."""

import os
import sys

EXIT_INTERRUPTED = 130
"""128 + SIGINT, as shells count."""

try:
    from neurrate.process import run_process
except KeyboardInterrupt:  # nothing has begun that would have to be ended
    os._exit(EXIT_INTERRUPTED)


def main() -> int:
    """Run the command line of this process; return its exit code."""
    try:
        return run_process(sys.argv[1:])
    except KeyboardInterrupt:  # a second one, or before the first handler was there
        os._exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
