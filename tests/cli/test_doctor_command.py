"""``neurrate doctor``: every problem is a sentence with a remedy."""

import json
import socket
import sys
from urllib.parse import urlsplit

import pytest

from daemon.service import doctor as checks
from daemon.service.settings import Settings
from neurrate.cli import main
from neurrate.doctor_command import exit_code


@pytest.fixture
def installed(monkeypatch):
    """Pretend that only these distributions are installed."""
    versions: dict[str, str] = {}
    monkeypatch.setattr(checks, "version_of", versions.get)
    return versions


def test_the_report_is_a_table_and_json(tmp_path, capsys):
    """An environment in which everything needed is installed has no problem and exit code 0."""
    out = tmp_path / "doctor.json"
    assert main(["doctor", "--json", str(out)]) == 0
    report = json.loads(out.read_text())
    found = {one["name"]: one["found"] for one in report["found"]}
    assert report["usable"] is True
    assert {"python", "libzmq", "execution providers", "gpu", "memory", "port 9571"} <= set(found)
    assert "Neurrate can be used." in capsys.readouterr().out


def test_a_missing_package_is_three_with_a_remedy(installed):
    """Without torch nothing narrates, and the sentence says how to get it."""
    installed.update(dict.fromkeys(checks.NEEDED, "1"))
    del installed["torch"]
    problems = [one for one in checks.packages() if one.problem]
    assert [one.name for one in problems] == ["torch"]
    assert problems[0].problem.endswith("-m pip install torch")
    assert exit_code(problems) == 3


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


def test_a_bundle_that_is_none_is_two(tmp_path, capsys):
    """A folder that is no bundle is refused as the user's input."""
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
