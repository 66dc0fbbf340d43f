"""Renew the lock files and the list of licences: ``python scripts/lock.py``, with uv on the path.

Each lock holds versions that somebody chose, by hand or with ``pip freeze``; this adds the sha256
of every file that PyPI has of them, so that ``pip install --require-hashes`` takes nothing else.
uv asks PyPI (``pip install uv``). What follows from torch's build for CUDA is a lock of its own:
nobody who takes a CPU build needs its gigabytes. ``requirements-torch-cpu.lock`` is by hand:
PyPI does not have that build.

``--licences`` renews the list alone, from what is installed, without PyPI.
"""

import re
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parent.parent
LICENCES = ROOT / "docs" / "third-party-licences.md"
LOCKS = ("requirements.lock", "requirements-nodeps.lock", "requirements-vllm.lock")
CUDA_LOCK = "requirements-cuda.lock"

PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s\\;]+)", re.MULTILINE)
HEADER = re.compile(r"\A(?:#.*\n)+")

PAGE = """\
# Third-party licences

The packages of the development environment (`requirements.lock`, `requirements-nodeps.lock`), and
the licence that each states in its own metadata. A user's installation has a part of them: those of
`pip install '.[cpu]'` are marked. Neurrate ships none of them. It ships parts of packages of the
npm registry for its page, unchanged and with their licences:
[subscribers/dashboard/page/vendor](../subscribers/dashboard/page/vendor/README.md). Written by
`python scripts/lock.py --licences`.

| package | version | licence | in a plain install |
|---|---|---|---|
"""


def pins(lock: Path) -> dict[str, str]:
    """Return the version of each package of a lock."""
    return dict(PIN.findall(lock.read_text(encoding="utf-8")))


def compile_lock(requirements: str, *options: str) -> str:
    """Return what uv makes of requirements: a line for each package, and its hashes."""
    command = [
        "uv", "pip", "compile", "-", "--quiet", "--generate-hashes", "--no-header", "--no-annotate",
        "--no-config", "--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28",
        *options,
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:  # elsewhere uv would read this project's settings
        done = subprocess.run(
            command, input=requirements, capture_output=True, text=True, check=False, cwd=folder
        )
    if done.returncode:
        sys.exit(f"lock: {done.stderr}")
    return done.stdout


def renew(lock: Path) -> None:
    """Write the hashes of every version in a lock."""
    before = lock.read_text(encoding="utf-8")
    header = HEADER.match(before)
    wanted = "".join(f"{name}=={version}\n" for name, version in pins(lock).items())
    text = compile_lock(wanted, "--no-deps")
    lock.write_text((header[0] if header else "") + text, encoding="utf-8")


def renew_cuda(locked: dict[str, str]) -> None:
    """Write the lock of what torch's build on PyPI needs and the CPU build does not."""
    lock = ROOT / CUDA_LOCK
    wanted = "".join(f"{name}=={version}\n" for name, version in locked.items())
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".txt") as constraints:
        constraints.write(wanted)
        constraints.flush()
        text = compile_lock(f"torch=={locked['torch']}\n", "--constraints", constraints.name)
    mine = {normal(name) for name in locked}
    parts = re.split(r"(?m)^(?=[A-Za-z0-9])", text)
    header = HEADER.match(lock.read_text(encoding="utf-8")) if lock.is_file() else None
    kept = [part for part in parts if (found := PIN.match(part)) and normal(found[1]) not in mine]
    lock.write_text((header[0] if header else "") + "".join(kept), encoding="utf-8")


def normal(name: str) -> str:
    """Return a package's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def licence_of(name: str) -> str:
    """Return the licence that an installed package states, in a few words."""
    about = metadata.metadata(name)
    expression = about.get("License-Expression")
    if expression:
        return str(expression)
    classified = [
        one.rpartition(" :: ")[2]
        for one in about.get_all("Classifier") or []
        if one.startswith("License :: ") and one != "License :: OSI Approved"
    ]
    stated = (about.get("License") or "").strip().partition("\n")[0]
    if stated not in {"", "UNKNOWN"} and len(stated) <= 60 and not stated.startswith("Copyright"):
        return stated
    return ", ".join(classified) or "in its own files"


def plain_install() -> set[str]:
    """Return the packages that ``pip install '.[cpu]'`` brings."""
    from packaging.requirements import Requirement

    seen: set[tuple[str, str]] = set()
    waiting = [("neurrate", extra) for extra in ("", "cpu")]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for line in metadata.requires(name) or []:
            one = Requirement(line)
            if one.marker is None or one.marker.evaluate({"extra": extra}):
                waiting += [(normal(one.name), of) for of in ("", *one.extras)]
    return {name for name, _ in seen}


def write_licences() -> None:
    """Write the list of licences."""
    plain = plain_install()
    rows = []
    for lock in LOCKS[:2]:
        for name, version in pins(ROOT / lock).items():
            mark = "yes" if normal(name) in plain else ""
            rows.append((normal(name), f"| {name} | {version} | {licence_of(name)} | {mark} |\n"))
    LICENCES.write_text(PAGE + "".join(row for _, row in sorted(rows)), encoding="utf-8")


def main() -> None:
    """Renew everything, or the list of licences."""
    if "--licences" not in sys.argv[1:]:
        for lock in LOCKS:
            renew(ROOT / lock)
        renew_cuda(pins(ROOT / LOCKS[0]))
    write_licences()


if __name__ == "__main__":
    main()
