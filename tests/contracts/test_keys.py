"""Files of keys, and the list of those that may connect."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import zmq.auth
from hypothesis import given
from hypothesis import strategies as st
from zmq.utils import z85

from contracts.allow_list import AllowList, load_server_keys
from contracts.errors import UserError
from contracts.keys import (
    ClientKeys,
    KeyPair,
    from_z85,
    key_text,
    keys_folder,
    load_keys_of_servers,
    load_pair,
    load_public,
    to_z85,
)
from tests.support.keys import allow, new_pair, write_pair

PAIR, OTHER = new_pair(), new_pair()


@given(st.binary(max_size=8).map(lambda data: data * 4))
def test_z85_is_that_of_pyzmq(data):
    """Keys look as in every other tool of ZeroMQ."""
    assert to_z85(data).encode() == z85.encode(data)
    assert from_z85(to_z85(data)) == data


@pytest.mark.parametrize("text", ["Hello", "HelloWorl", "Hell\u00f6World", "#####", "12345 7890"])
def test_what_is_no_z85_is_refused(text):
    """Letters that it has not, lengths that it has not, and numbers beyond 32 bits."""
    if text == "Hello":
        assert len(from_z85(text)) == 4
        return
    with pytest.raises(ValueError, match="no Z85"):
        from_z85(text)


def test_files_of_pyzmq_are_read(tmp_path):
    """What zmq.auth.create_certificates writes."""
    public_file, secret_file = zmq.auth.create_certificates(tmp_path, "rig")
    Path(secret_file).chmod(0o600)
    public, secret = zmq.auth.load_certificate(secret_file)
    assert secret is not None
    pair = load_pair(secret_file, setting="test")
    assert pair == KeyPair(z85.decode(public), z85.decode(secret))
    assert load_public(public_file, setting="test") == pair.public


def test_pyzmq_reads_our_files(tmp_path):
    """And the other way round."""
    write_pair(tmp_path, "rig", PAIR)
    public, secret = zmq.auth.load_certificate(tmp_path / "rig.key_secret")
    assert (public, secret) == (to_z85(PAIR.public).encode(), to_z85(PAIR.secret).encode())
    assert zmq.auth.load_certificate(tmp_path / "rig.key") == (public, None)


def test_a_name_is_one_in_the_usual_folder(tmp_path, monkeypatch):
    """A name without a slash is looked for below $XDG_CONFIG_HOME."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    write_pair(keys_folder(), "rig", PAIR)
    write_pair(keys_folder(), "daemon", OTHER)
    settings = ("--key", "--server-key")
    [keys] = load_keys_of_servers("rig", ["daemon"], ["tcp://a:1"], settings=settings)
    assert keys == ClientKeys(PAIR, OTHER.public)


def test_keys_go_with_the_addresses_in_their_order(tmp_path):
    """One key for all, or one for each, of which some may have none."""
    write_pair(tmp_path, "me", PAIR)
    write_pair(tmp_path, "rig", OTHER)
    own, rig = str(tmp_path / "me.key_secret"), str(tmp_path / "rig.key")
    addresses, settings = ["tcp://a:1", "tcp://b:1"], ("keys.own", "keys.sources")
    keys = ClientKeys(PAIR, OTHER.public)
    assert load_keys_of_servers(own, [], addresses, settings=settings) == [None, None]
    assert load_keys_of_servers(own, [rig], addresses, settings=settings) == [keys, keys]
    assert load_keys_of_servers(own, ["none", rig], addresses, settings=settings) == [None, keys]
    with pytest.raises(UserError, match=r"keys\.sources takes one key .* each of the 2, got 3"):
        load_keys_of_servers(own, [rig] * 3, addresses, settings=settings)
    with pytest.raises(UserError, match=r"keys\.sources needs keys\.own too"):
        load_keys_of_servers(None, [rig], addresses, settings=settings)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_secret_that_others_can_read_is_refused(tmp_path, mode):
    """With the command that mends it."""
    write_pair(tmp_path, "rig", PAIR)
    (tmp_path / "rig.key_secret").chmod(mode)
    with pytest.raises(UserError, match=rf"mode {mode:04o}.*\(keys\.own\)\. Run: chmod 600 "):
        load_pair(str(tmp_path / "rig.key_secret"), setting="keys.own")


def test_key_that_is_not_there_is_named(tmp_path, monkeypatch):
    """With what makes it, and where it should be."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"neurrate/keys/rig\.key_secret \(keys\.own\)\. 'neurrate"):
        load_pair("rig", setting="keys.own")
    with pytest.raises(UserError, match=r"Copy rig\.key from the machine"):
        load_public("rig", setting="--server-key")


@pytest.mark.parametrize(
    "content",
    ["", "curve\n", 'public-key = "short"\n', key_text(PAIR.public), "\x00\xff", "[" * 100_000],
)
def test_file_without_a_pair_is_refused(tmp_path, content):
    """Empty, cut, only public, or something else altogether."""
    path = tmp_path / "rig.key_secret"
    path.touch(mode=0o600)
    path.write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=r"rig\.key_secret"):
        load_pair(str(path), setting="keys.own")


def test_secret_is_not_shown():
    """Neither by a log line nor by a traceback."""
    assert to_z85(PAIR.secret) not in repr(PAIR)
    assert repr(PAIR.secret) not in repr(PAIR)


def test_list_follows_its_folder(tmp_path):
    """Files that come and go are seen at the next look."""
    keys = AllowList(allow(tmp_path, one=PAIR.public))
    assert PAIR.public in keys
    assert OTHER.public not in keys
    assert not keys.refresh()
    allow(tmp_path, two=OTHER.public)
    assert keys.refresh()
    assert OTHER.public in keys
    (keys.folder / "one.key").unlink()
    assert keys.refresh()
    assert PAIR.public not in keys


def test_list_without_a_folder_is_empty(tmp_path, caplog):
    """Nobody is let in, and a line says so; the folder may come later."""
    with caplog.at_level(logging.WARNING):
        keys = AllowList(tmp_path / "allowed")
    assert len(keys) == 0
    assert "no key may connect" in caplog.text
    allow(tmp_path, one=PAIR.public)
    assert keys.refresh()
    assert PAIR.public in keys


def test_broken_file_costs_no_other(tmp_path, caplog):
    """It is passed over with a line that names it."""
    folder = allow(tmp_path, one=PAIR.public)
    (folder / "broken.key").write_text("nothing")
    with caplog.at_level(logging.WARNING):
        keys = AllowList(folder)
    assert PAIR.public in keys
    assert any("broken.key" in one.__dict__.get("file", "") for one in caplog.records)


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o720])
def test_list_that_others_can_write_is_refused(tmp_path, mode):
    """Whoever can write to it lets himself in."""
    write_pair(tmp_path, "daemon", PAIR)
    allow(tmp_path).chmod(mode)
    with pytest.raises(UserError, match=r"Run: chmod 700 "):
        load_server_keys(str(tmp_path / "daemon.key_secret"), setting="keys.own")
