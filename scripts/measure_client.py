"""Build neurrate-client, install it in a fresh environment, and say what that takes.

``python scripts/measure_client.py``; more arguments are pip's: ``--no-index --find-links wheels/``.
The client is imported there, without anything else of this project.
"""

import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

CLIENT = Path(__file__).parent.parent / "clients" / "python"


def main() -> None:
    """Build, install, import, and print a line for each."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        began_s = time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
            check=True, cwd=CLIENT, capture_output=True,
        )  # fmt: skip
        (wheel,) = folder.glob("*.whl")
        built_s = time.monotonic()
        print(f"built {wheel.name}: {wheel.stat().st_size / 1e3:.0f} kB, {built_s - began_s:.1f} s")
        environment = folder / "environment"
        venv.create(environment, with_pip=True)
        python = environment / "bin" / "python"
        before_bytes = size_of(environment)
        ready_s = time.monotonic()
        subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", *sys.argv[1:], str(wheel)], check=True
        )
        took_s = time.monotonic() - ready_s
        added_bytes = size_of(environment) - before_bytes
        print(f"installed with what it needs: {added_bytes / 1e6:.1f} MB, {took_s:.1f} s")
        check = "import neurrate_client, sys; assert 'numpy' not in sys.modules"
        before_s = time.monotonic()
        subprocess.run([str(python), "-I", "-c", check], check=True)
        print(f"started and imported: {time.monotonic() - before_s:.2f} s")


def size_of(folder: Path) -> int:
    """Return the bytes of the files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
