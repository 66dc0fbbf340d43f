"""The files in configs/vllm: a rig's settings, and the command that starts a server."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from daemon.service.settings_loader import load_settings
from tests.support.vllm_server import SERVE

FOLDER = SERVE.parent


def serve(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the script with a program in place of vLLM that says what it is given."""
    return subprocess.run(
        [SERVE, *words],
        env={**os.environ, "VLLM": "echo"},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


def test_the_rigs_settings_are_valid():
    """They choose this back-end, a server and a deadline."""
    settings = load_settings(file=FOLDER / "rig.toml", environ={}).settings
    assert settings.narrator.backend == "vllm"
    assert settings.vllm.urls == ("http://127.0.0.1:8000",)
    assert settings.narrator.deadline_s


def test_a_server_is_started_with_its_flags():
    """The model first, our flags, and what was added last, so that it wins."""
    ran = serve("some/llava", "--port", "9000")
    words = ran.stdout.split()
    assert words[:4] == ["serve", "some/llava", "--host", "127.0.0.1"]
    assert "--enable-mm-embeds" in words
    template = words[words.index("--chat-template") + 1]
    assert Path(template).samefile(FOLDER / "narrator.jinja")
    assert words[-2:] == ["--port", "9000"]


def test_a_server_without_a_model_says_how():
    """The usage, and exit code 2."""
    ran = serve()
    assert ran.returncode == 2
    assert "configs/vllm/serve MODEL" in ran.stderr
