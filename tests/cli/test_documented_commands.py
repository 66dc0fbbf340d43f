"""Every ``neurrate`` command in README, in the pages and in the help is one that the CLI takes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from cyclopts import CycloptsError

from neurrate.cli import build_app

ROOT = Path(__file__).parents[2]

MADE = ROOT / "docs" / "cli.md"  # of the command itself

PAGES = [ROOT / "README.md", *sorted({*(ROOT / "docs").rglob("*.md")} - {MADE})]

FENCED = re.compile(r"^```(?:console|sh|bash)?\n(.*?)^```", re.MULTILINE | re.DOTALL)

COMMAND = re.compile(r"^\s*(?:\$ )?(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?neurrate (.+)$")
"""After a prompt, and settings of the environment, if there are any."""


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each command of a text, after ``neurrate``."""
    for line in text.replace("\\\n", " ").splitlines():
        for part in re.split(r"&&|\|", line):
            if (found := COMMAND.match(part)) and not re.search(r" \.\.\.( |$)|[A-Z]+\]", found[1]):
                words = shlex.split(found[1], comments=True)
                yield words[: words.index("&")] if "&" in words else words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_of_a_page_are_taken(page: Path) -> None:
    """Verbs, options and their values; no file that they name is opened."""
    for block in FENCED.findall(page.read_text(encoding="utf-8")):
        for words in commands(block):
            check(words)


def test_examples_of_the_help_are_taken() -> None:
    """Those in the docstrings of the verbs."""
    n = 0
    for module in sorted((ROOT / "neurrate").glob("*_command.py")):
        for words in commands(module.read_text(encoding="utf-8")):
            check(words)
            n += 1
    assert n > 80


@pytest.mark.parametrize(
    "line", ["demo --no-such-option", "stream nowhere x", "watch --seconds soon", "prepare a.nwb"]
)
def test_a_wrong_command_is_found(line: str) -> None:
    """What is checked here can fail."""
    with pytest.raises(pytest.fail.Exception, match="neurrate "):
        check(shlex.split(line))


def check(words: list[str]) -> None:
    """Fail unless the command line is one that is taken."""
    try:
        build_app(words).parse_args(words, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        pytest.fail(f"neurrate {shlex.join(words)}: {error}")
