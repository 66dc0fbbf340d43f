"""The sampling rate in ``params.py``."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import RecordingError
from stream_sources.recordings.params_file import ParamsError, read_rate
from stream_sources.recordings.sorting import SortingSource
from tests.support.nwb_files import write_kilosort


def rate_of(folder: Path, source: bytes | str) -> float | None:
    """Write a ``params.py`` and read its rate."""
    path = folder / "params.py"
    path.write_bytes(source if isinstance(source, bytes) else source.encode())
    stated = read_rate(path)
    return None if stated is None else stated.hz


@pytest.mark.parametrize(
    ("source", "hz"),
    [
        (b"\xef\xbb\xbfsample_rate = 2e4\r\n", 20_000),
        (b"# -*- coding: latin-1 -*-\ndat_path = '\xe9'\nsample_rate = 2e4", 20_000),
        (b"dat_path = 'C:/\xe9/x.dat'\r\nsample_rate = 2e4\r\n", 20_000),
        (b"n = 1\rsample_rate = 2e4\r", 20_000),
        ("sample_rate: float = 20000.0", 20_000),
        ("a = sample_rate = 3e4", 30_000),
        ("n_channels_dat, sample_rate = 64, 25000", 25_000),
        ("[n, (sample_rate, k)] = 64, [25000, 2]", 25_000),
        ("sample_rate = 1\nsample_rate = 30_000.", 30_000),
        ("k = 1000\nsample_rate = 30 * k", 30_000),
        ("sample_rate = 2\nsample_rate **= 4", 16),
        ("sample_rate = float(20000)", 20_000),
        ("sample_rate = int('20_000')", 20_000),
        ("sample_rate = '30000'", 30_000),
        ("import numpy as np\nsample_rate = np.float64(25000)", 25_000),
        ("from numpy import float32 as single\nsample_rate = single(25000)", 25_000),
        ("sample_rate = 0x7530", 30_000),
        ("sample_rate = \\\n    2e4  # 30000", 20_000),
        ("'''\nsample_rate = 30000\n'''\nsample_rate = 20000", 20_000),
        ("SAMPLE_RATE = 20000", 20_000),
        ("float = int\nsample_rate = float(2.5)", 2),
        ("a, sample_rate = 1, 2\na, sample_rate = sample_rate, a", 1),
    ],
)
def test_a_rate_is_read_as_python_reads_it(tmp_path: Path, source: str, hz: float) -> None:
    """Numbers, calls, annotations, encodings and repeated assignments give Python's result."""
    assert rate_of(tmp_path, source) == hz


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("sample_rate = 2e4".encode("utf-16"), "not UTF-8"),
        ("sample_rate = 2e4".encode("utf-16-le"), "not UTF-8"),
        (b"# coding: nonsense\nsample_rate = 3", "unknown encoding"),
        ("n = 1\nsample_rate = 30 000", "line 2 is not Python"),
        ("sample_rate = 1\nif True:\n    sample_rate = 20000", "line 3 states"),
        ("sample_rate = 1\nfor sample_rate in [3]: pass", "line 2 states"),
        ("n, sample_rate = read()", "line 1 states"),
        ("sample_rate = header['fs']", "line 1 states"),
        ("k = read()\nsample_rate = 2 * k", "k of line 1 is not known"),
        ("sample_rate = later", "later is not assigned before"),
        ("sample_rate = 30000,", "is not evaluated"),
        ("sample_rate = None", "is not evaluated"),
        ("sample_rate = True", "is not evaluated"),
        ("sample_rate = 1 / 0", "division by zero"),
        ("sample_rate = ((9**64)**64)**64", "more than 1,024 bits"),
        (f"sample_rate = 0x{'f' * 5000}", "more than 1,024 bits"),
        ("import numpy as np\nsample_rate = np.int16(20000) * 4", "overflow"),
        ("from math import pi\nsample_rate = pi", "must be a number, got math.pi"),
        ("sample_rate = '3' + 4", "'3' is not a number"),
        ("sample_rate = 9**9**9", "exponent"),
        ("sample_rate = 'fast'", "line 1: sample_rate must be a number, got 'fast'"),
        ("sample_rate = 3\nfrom settings import *", "line 2 states"),
        ("sample_rate = 3\ndel (n, sample_rate)", "line 2 states"),
        ("sample_rate = 3\nexec('sample_rate = 4')", "line 2 states"),
        ("def f():\n    global sample_rate\n    sample_rate = 4\nsample_rate = 5\nf()", "line 2"),
        ("params = dict(sample_rate=4)", "line 1 may state"),
        ("params = {'sample_rate': 4}", "line 1 may state"),
        ("self.sample_rate = 4", "line 1 may state"),
        ("n = 4\nfs = 20000", r"line 2 may state the rate .* \(fs\)"),
        ("sample_rate = 3\nSample_Rate = 4", "Sample_Rate and sample_rate differ"),
        ("sample_rate = " + "-" * 9000 + "1", "cannot be parsed"),
    ],
)
def test_a_rate_that_cannot_be_evaluated_is_refused(
    tmp_path: Path, source: bytes | str, text: str
) -> None:
    """No other rate is used where the file states one; the message names the line."""
    with pytest.raises(ParamsError, match=text):
        rate_of(tmp_path, source)


@pytest.mark.parametrize("source", ["", "n_channels_dat = 4\nhp_filtered = False\n", "# 30000 Hz"])
def test_a_file_without_a_rate_states_none(tmp_path: Path, source: str) -> None:
    """Only then may the rate come from elsewhere."""
    assert rate_of(tmp_path, source) is None


NUMBERS = st.recursive(
    st.integers(0, 10**6).map(str) | st.floats(1e-3, 1e6).map(repr),
    lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda t: f"({''.join(t)})"),
    max_leaves=6,
)


@given(NUMBERS)
def test_arithmetic_is_pythons(text: str) -> None:
    """What is evaluated has the value that Python's own interpreter gives it."""
    from tempfile import TemporaryDirectory

    try:
        expected = float(eval(text))
    except ArithmeticError:
        return
    with TemporaryDirectory() as folder:
        assert rate_of(Path(folder), f"sample_rate = {text}") == expected


@pytest.mark.parametrize("value", ["float('nan')", "float('inf')", "-30000", "0"])
def test_a_rate_is_finite_and_positive(tmp_path: Path, value: str) -> None:
    """Any other is refused with its line."""
    folder = write_kilosort(tmp_path / "ks", {1: [0, 5]}, sample_rate=None)
    (folder / "params.py").write_text(f"n = 1\nsample_rate = {value}\n")
    with pytest.raises(RecordingError, match=r"the sampling rate must be .*params\.py, line 2"):
        SortingSource(folder)


def test_an_unreadable_rate_is_refused_with_its_folder(tmp_path: Path) -> None:
    """The recording is refused, and 30 kHz is not assumed."""
    folder = write_kilosort(tmp_path / "ks", {1: [0, 5]}, sample_rate=None)
    (folder / "params.py").write_text("sample_rate = header.rate\n")
    with pytest.raises(RecordingError, match=r"params\.py cannot be used: line 1 states"):
        SortingSource(folder)
