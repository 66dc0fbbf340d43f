"""``neurrate sessions pool``: pools on the command line, and what is refused."""

from __future__ import annotations

from dataclasses import replace

from encoder_training.data_set.prepared_facts import load_facts
from encoder_training.data_set.prepared_files import load_prepared, write_prepared
from neurrate.cli import main
from tests.support.prepared import prepared_set


def written(folder, name):
    """Write a session of this name."""
    small = prepared_set(n_frames=60, n_repeats=4, units_each=2, held_out="middle")
    training_data = small.training_data.model_copy(update={"session_id": name})
    write_prepared(folder / name, replace(small, training_data=training_data), notes=("a note",))
    return str(folder / name)


def test_two_sessions_become_one_data_set(tmp_path, capsys):
    """The notes are printed, the command is kept, and training and export find what they need."""
    folders = [written(tmp_path, "mouse1"), written(tmp_path, "mouse2")]
    assert main(["sessions", "pool", *folders, "--out", str(tmp_path / "pooled")]) == 0
    printed = capsys.readouterr().out
    assert "12 units" in printed
    assert "pooled by frame, at the times of mouse1" in printed
    assert "mouse2: a note" in printed
    assert load_facts(tmp_path / "pooled").command.startswith("neurrate sessions pool ")
    pooled = load_prepared(tmp_path / "pooled", check_hashes=True)
    assert pooled.windows(100_000_000)[0].n_windows > 0


def test_one_session_is_exchanged_with_itself(tmp_path, capsys):
    """Alone it needs --exchange-repeats, which is kept with its seed."""
    folder = written(tmp_path, "mouse1")
    out = ["--out", str(tmp_path / "exchanged")]
    assert main(["sessions", "pool", folder, *out]) == 2
    assert "--exchange-repeats" in capsys.readouterr().err
    assert main(["sessions", "pool", folder, *out, "--exchange-repeats", "--seed", "4"]) == 0
    options = load_facts(tmp_path / "exchanged").options
    assert (options["--exchange-repeats"], options["--exchange-seed"]) == (True, 4)


def test_no_data_set_is_refused(tmp_path, capsys):
    """A pool of nothing says so."""
    assert main(["sessions", "pool", "--out", str(tmp_path / "pooled")]) == 2
    assert capsys.readouterr().err
