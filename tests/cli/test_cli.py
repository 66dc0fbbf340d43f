"""The command: help, exit codes, error text."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from shutil import copytree

import pytest

from contracts.errors import DependencyError, MisuseError, SettingsError, UserError
from daemon.service.logs import ROOT_LOGGERS
from neurrate import cli, config_command, export_command, verbs

HEAVY = (
    "torch",
    "transformers",
    "spikeinterface",
    "h5py",
    "zmq",
    "onnxruntime",
    "prometheus_client",
)


def _fails_with(monkeypatch, error: BaseException) -> int:
    def settings_from(*_: object) -> None:
        raise error

    monkeypatch.setattr(config_command, "settings_from", settings_from)
    return cli.main(["config", "show"])


@pytest.mark.parametrize(
    "words",
    ["--help", "--version", "config --help", "config show --help", "watch --help", "doctor --help"],
)
def test_help_imports_nothing_heavy(words):
    """Help is fast because no verb's libraries are imported for it."""
    code = (
        "import sys; from neurrate.cli import main; "
        f"code = main({words.split()!r}); "
        f"sys.exit(code or ', '.join(m for m in {HEAVY!r} if m in sys.modules) or None)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


@pytest.mark.parametrize("words", [["config", "show"], ["watch"], ["doctor"]])
def test_every_help_has_examples(words, capsys):
    """The help of a verb shows how it is typed."""
    assert cli.main([*words, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "For example:" in shown
    assert f"neurrate {' '.join(words)}" in shown.partition("For example:")[2]


def test_the_help_lists_verbs_and_exit_codes(capsys):
    """``neurrate --help`` names every verb and what the exit codes mean."""
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for verb in (*verbs.VERBS, *verbs.GROUPS):
        assert f" {verb} " in shown
    assert "Exit codes: 0 done or asked to stop; 1 an internal error" in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["wacth"], "neurrate has no verb 'wacth'. Did you mean 'watch'?"),
        (["stream", "nbw"], "neurrate stream has no verb 'nbw'. Did you mean 'nwb'?"),
        (["watch", "--bogus"], "--bogus"),
        (["watch", "--seconds", "x"], "--seconds"),
        (["watch", "--seconds", "0"], "--seconds"),
        (["config", "show", "--set", "ring.capacity_s"], "--set takes key=value"),
        (["config", "show", "--set", "ring.capactiy_s=3"], "Did you mean ring.capacity_s?"),
        (["config", "show", "--json", "/no/such/folder/x"], "there is no folder /no/such/folder"),
        (["watch", "--connect", "nowhere"], "tcp://127.0.0.1:5571, got 'nowhere'"),
        (
            ["watch", "--connect", "tcp://127.0.0.1:99999"],
            "--connect must have a port from 1 to 65535, got 'tcp://127.0.0.1:99999'",
        ),
    ],
)
def test_the_users_mistakes_are_two_without_a_traceback(words, said, capsys):
    """What the user can correct ends with 2 and one sentence."""
    assert cli.main(words) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("neurrate: error: ")
    assert said in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    ("error", "code", "has_traceback"),
    [
        (UserError("no"), 2, False),
        (SettingsError(["no"]), 2, False),
        (DependencyError("no"), 3, False),
        (ModuleNotFoundError("no", name="onnxruntime.capi"), 3, False),
        (ModuleNotFoundError("no", name="daemon.nothing"), 1, True),
        (MisuseError("no"), 1, True),
        (ZeroDivisionError("no"), 1, True),
        (KeyboardInterrupt(), 130, False),
    ],
    ids=repr,
)
def test_errors_become_exit_codes(error, code, has_traceback, monkeypatch, capsys):
    """The blame decides the code; only internal errors show a traceback."""
    assert _fails_with(monkeypatch, error) == code
    assert ("Traceback" in capsys.readouterr().err) is has_traceback


@pytest.mark.parametrize(
    ("module", "remedy"),
    [
        ("onnxruntime.capi", "onnxruntime"),
        ("PIL", "pillow"),
        ("scipy.linalg", "'neurrate[train]'"),
        ("sklearn", "'neurrate[train]'"),
        ("psutil", "'neurrate[eval]'"),
    ],
)
def test_a_missing_package_is_named(module, remedy, monkeypatch, capsys):
    """The error says what to install: the extra, if one has the package."""
    _fails_with(monkeypatch, ModuleNotFoundError("no", name=module))
    assert f"python -m pip install {remedy}\n" in capsys.readouterr().err


def test_every_package_is_known_where_packages_are_listed():
    """What is built, what may log, and whose absence is an internal error are one list."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    built = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert set(built) == set(ROOT_LOGGERS) == cli.OUR_PACKAGES


def test_a_verb_that_was_stopped_before_it_made_something_says_so(monkeypatch, capsys):
    """Control-C in training is no success for a shell, and the same command goes on."""

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(export_command, "check_folder_writable", stopped)
    assert cli.main(["export", "run", "bundle"]) == 130
    assert capsys.readouterr().err == "neurrate: stopped before the end.\n"
    monkeypatch.setattr("encoder_training.train_run.train_run", stopped)
    assert cli.main(["train", "data", "run"]) == 130
    assert "the same command again" in capsys.readouterr().err


@pytest.mark.parametrize("is_mixed", [False, True])
def test_another_package_named_daemon_is_refused(is_mixed, tmp_path):
    """python-daemon's, before ours on the path or unpacked over it, is named with a remedy."""
    root = Path(__file__).parents[2]
    if is_mixed:
        copytree(root / "daemon", tmp_path / "daemon")
        (tmp_path / "daemon" / "daemon.py").touch()
    else:
        (tmp_path / "daemon").mkdir()
        (tmp_path / "daemon" / "__init__.py").touch()
    done = subprocess.run(
        [sys.executable, "-m", "neurrate.cli", "config", "show"],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"},
    )
    assert done.returncode == DependencyError.exit_code
    assert "without python-daemon" in done.stderr
    assert len(done.stderr.splitlines()) == 1
