"""``neurrate keys``, and verbs whose keys are wrong."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from contracts.allow_list import load_server_keys
from contracts.keys import load_pair, load_public
from neurrate.cli import main
from tests.support.nwb_files import random_trains, write_units

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "neurrate" / "keys"


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def refused(words: list[str], capsys: Capture) -> str:
    assert main(words) == 2
    return capsys.readouterr().err


def test_new_pair_is_its_owners_alone(folder: Path):
    """The secret is readable by nobody else, also the folders; the pair is one."""
    assert main(["keys", "new", "rig"]) == 0
    assert mode_of(folder / "rig.key_secret") == 0o600
    assert (mode_of(folder), mode_of(folder / "allowed")) == (0o700, 0o700)
    pair = load_pair("rig", setting="test")
    assert load_public("rig", setting="test") == pair.public
    assert "secret" not in (folder / "rig.key").read_text().replace("secret:", "")


def test_pair_is_not_overwritten(folder: Path, capsys: Capture):
    """Whoever knows the old one would be locked out."""
    main(["keys", "new", "rig"])
    before = load_pair("rig", setting="test")
    assert "is not overwritten" in refused(["keys", "new", "rig"], capsys)
    assert load_pair("rig", setting="test") == before


@pytest.mark.parametrize("name", ["../rig", "", "a b", ".rig", "r" * 65])
def test_name_that_is_none_is_refused(name: str, folder: Path, capsys: Capture):
    """A name is that of a file, in this folder."""
    assert "64 letters" in refused(["keys", "new", name], capsys)


def test_allowed_key_is_on_the_list_until_revoked(folder: Path, tmp_path: Path, capsys: Capture):
    """And 'list' shows it, with what else is there."""
    main(["keys", "new", "rig"])
    main(["keys", "new", "laptop", "--folder", str(tmp_path / "other")])
    public = tmp_path / "other" / "laptop.key"
    assert main(["keys", "allow", str(public)]) == 0
    assert load_public(str(public), setting="test") in load_server_keys("rig", setting="t").allowed
    assert main(["keys", "list", "--json", str(tmp_path / "keys.json")]) == 0
    listed = json.loads((tmp_path / "keys.json").read_text())
    assert [(one["name"], one["kind"]) for one in listed] == [
        ("rig", "pair"),
        ("laptop", "allowed"),
    ]
    assert main(["keys", "revoke", "laptop"]) == 0
    assert len(load_server_keys("rig", setting="t").allowed) == 0
    capsys.readouterr()
    assert "It is empty." in refused(["keys", "revoke", "laptop"], capsys)


def test_another_key_of_one_name_needs_a_word(folder: Path, tmp_path: Path, capsys: Capture):
    """A client's new key takes the old one's place only if that is said."""
    for place in ("old", "new"):
        main(["keys", "new", "laptop", "--folder", str(tmp_path / place)])
    old, new = (str(tmp_path / place / "laptop.key") for place in ("old", "new"))
    main(["keys", "new", "rig"])
    assert main(["keys", "allow", old]) == 0
    assert main(["keys", "allow", old]) == 0
    assert "--replace" in refused(["keys", "allow", new], capsys)
    assert main(["keys", "allow", new, "--replace"]) == 0
    allowed = load_server_keys("rig", setting="test").allowed
    assert load_public(new, setting="test") in allowed
    assert load_public(old, setting="test") not in allowed


def test_secret_key_is_not_put_on_the_list(folder: Path, capsys: Capture):
    """It should not have left its machine."""
    main(["keys", "new", "rig"])
    assert "holds a secret" in refused(["keys", "allow", str(folder / "rig.key_secret")], capsys)


def test_folder_that_others_can_write_is_refused(folder: Path, capsys: Capture):
    """With the command that mends it."""
    main(["keys", "new", "rig"])
    (folder / "allowed").chmod(0o777)
    for words in (["keys", "list"], ["keys", "allow", str(folder / "rig.key")]):
        assert "Run: chmod 700" in refused(words, capsys)


def test_missing_key_of_a_source_is_named(folder: Path, tmp_path: Path, capsys: Capture):
    """What is missing, where it should be, and what makes it."""
    path = str(write_units(tmp_path / "session.nwb", random_trains()))
    sentence = refused(["stream", "nwb", path, "--bind", "tcp://0.0.0.0:0", "--key", "rig"], capsys)
    assert f"There is no key {folder / 'rig.key_secret'} (--key)." in sentence
    assert "'neurrate keys new rig' makes one" in sentence


@pytest.mark.parametrize(
    "words",
    [
        ["watch", "--connect", "tcp://rig:5571", "--seconds", "1"],
        ["watch", "--truth", "tcp://rig:5570", "--seconds", "1"],
        ["record", "journal", "--spikes", "tcp://rig:5570", "--seconds", "1"],
        ["dashboard", "--connect", "tcp://rig:5571", "--seconds", "1"],
    ],
)
def test_another_machine_needs_keys(words: list[str], folder: Path, capsys: Capture):
    """A connection that leaves this machine is refused without keys and without the word."""
    sentence = refused(words, capsys)
    assert "is on another machine" in sentence
    assert "--server-key NAME" in sentence


@pytest.mark.parametrize(
    "words",
    [
        ["watch"],
        ["record", "journal"],
        ["dashboard", "--port", "0"],
        ["bridge", "lsl", "--insecure"],
        ["run", "--bundle", "bundle"],
    ],
)
def test_every_command_that_connects_takes_keys(words: list[str], folder: Path, capsys: Capture):
    """Under the same names, each of a name or a file."""
    sentence = refused([*words, "--key", "me", "--server-key", "rig"], capsys)
    assert f"There is no key {folder / 'me.key_secret'}" in sentence


def test_server_key_without_a_pair_is_refused(folder: Path, capsys: Capture):
    """Both are needed."""
    words = ["watch", "--server-key", "rig", "--seconds", "1"]
    assert "--server-key needs --key too" in refused(words, capsys)
