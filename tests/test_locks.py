"""The lock files: complete, with hashes, and the list of licences is of them."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LOCKS = sorted(path.name for path in ROOT.glob("requirements*.lock"))
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s\\]+)", re.MULTILINE)
REMEDY = "run: python scripts/lock.py"


def _pins(name: str) -> dict[str, str]:
    text = (ROOT / name).read_text(encoding="utf-8")
    return {_normal(package): version for package, version in PIN.findall(text)}


def _normal(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


@pytest.mark.parametrize("name", LOCKS)
def test_every_version_has_its_hashes(name):
    """pip takes nothing that is not in the list, and refuses a list with a gap."""
    text = (ROOT / name).read_text(encoding="utf-8")
    assert not re.search(r"--hash=sha256:(?![0-9a-f]{64}\b)", text)
    entries = re.split(r"(?m)^(?=[A-Za-z0-9])", re.sub(r"(?m)^#.*\n", "", text))
    bare = [one.split()[0] for one in entries if one.strip() and "--hash=sha256:" not in one]
    assert not bare, REMEDY


def test_what_the_project_needs_is_locked_within_its_ranges():
    """A requirement that is added to the project is added to the lock too."""
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *(one for extra in extras.values() for one in extra)]
    wanted = [Requirement(one) for one in lines if not one.startswith("neurrate[")]
    elsewhere = {"onnxruntime-gpu", "tensorrt"}  # never beside the CPU's, and not on every machine
    pins = _pins("requirements.lock")
    for one in wanted:
        if one.name not in elsewhere:
            assert _normal(one.name) in pins, f"{one.name}: {REMEDY}"
            assert pins[_normal(one.name)] in one.specifier


def test_the_list_of_licences_is_of_the_locked_versions():
    """Whoever asks under what licences the packages are is answered for these, not for others."""
    page = (ROOT / "docs" / "third-party-licences.md").read_text(encoding="utf-8")
    listed = {
        _normal(package): version
        for package, version in re.findall(r"^\| ([^ |]+) \| ([^ |]+) \|", page, re.MULTILINE)
        if package != "package"
    }
    assert listed == _pins("requirements.lock") | _pins("requirements-nodeps.lock"), REMEDY


@pytest.mark.parametrize("has_hash", [True, False])
def test_a_cpu_build_of_torch_that_is_not_in_the_lock_is_taken(has_hash, tmp_path):
    """Another Python has another file of it, which comes before the build with CUDA."""
    for path in (ROOT / "Makefile", ROOT / "pyproject.toml", *ROOT.glob("requirements*.lock")):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    pip = tmp_path / "pip"
    pip.write_text(
        '#!/bin/sh\necho "$@" >> calls\n'
        f'case "$*" in *torch-cpu.lock) exit {int(not has_hash)};; esac\n'
    )
    pip.chmod(0o755)
    (tmp_path / ".venv").mkdir()  # in place of `python -m venv`
    made = subprocess.run(
        ["make", "-s", "setup", "PYTHON=true", "BIN=missing", "PIP=./pip"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    calls = (tmp_path / "calls").read_text(encoding="utf-8").splitlines()
    torch = f"torch=={_pins('requirements-torch-cpu.lock')['torch']}"
    assert (f"--no-deps {torch}" in calls) is not has_hash
    assert (f"{torch} was installed without a check" in made.stdout) is not has_hash
    assert any(call.endswith("-r requirements.lock") for call in calls)
