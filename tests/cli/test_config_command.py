"""``neurrate config show``."""

import json

from neurrate.cli import main


def test_every_value_is_shown_with_its_source(tmp_path, monkeypatch, capsys):
    """The table and the JSON hold each effective value and where it comes from."""
    file, out = tmp_path / "x.toml", tmp_path / "out.json"
    file.write_text("[http]\nport = 0\n")
    monkeypatch.setenv("NEURRATE_LOG__LEVEL", "DEBUG")
    monkeypatch.setenv("COLUMNS", "200")
    words = ["--config", str(file), "--set", "ring.capacity_s=20", "--json", str(out)]
    assert main(["config", "show", *words]) == 0
    shown = json.loads(out.read_text())
    assert shown["http.port"] == {"value": 0, "source": str(file)}
    assert shown["log.level"] == {"value": "DEBUG", "source": "NEURRATE_LOG__LEVEL"}
    assert shown["ring.capacity_s"] == {"value": 20.0, "source": "--set"}
    assert shown["encoder.bundle"] == {"value": None, "source": "default"}
    table = capsys.readouterr().out
    assert all(key in table for key in shown)
    assert "NEURRATE_LOG__LEVEL" in table
