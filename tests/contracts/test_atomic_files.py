"""Files are whole or not there, and others may read them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from contracts.atomic_files import whole_file, write_json
from contracts.errors import UserError
from encoder_training.files import write_tensors


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    """The file before it stays, and no half file lies beside it."""
    path = tmp_path / "a.json"
    write_json(path, {"words": "Äpfel"})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"cosine": float("nan")})
    with pytest.raises(KeyboardInterrupt):
        write_half(path)
    assert json.loads(path.read_bytes()) == {"words": "Äpfel"}
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


def test_a_file_that_safetensors_cannot_write_is_one_sentence(tmp_path):
    """A disk that is full, or anything else in the way, names the file and what to do."""
    path = tmp_path / "nowhere" / "a.safetensors"
    with pytest.raises(UserError, match="cannot be written"):
        write_tensors(path, {"a": np.zeros(2)})


def write_half(path: Path) -> None:
    """Begin to write, and be interrupted."""
    with whole_file(path) as partial:
        partial.write_bytes(b"{")
        assert partial.parent == path.parent
        raise KeyboardInterrupt


def test_tensors_may_be_read_by_others(tmp_path):
    """A file of tensors has the mode of any other file, and holds its metadata."""
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"mean": np.arange(3.0)}, {"version": "1"})
    assert path.stat().st_mode & 0o777 == 0o644
    with safe_open(path, framework="np") as file:
        assert file.metadata() == {"version": "1"}
        assert file.get_tensor("mean").tolist() == [0, 1, 2]
