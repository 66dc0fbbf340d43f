"""One array of a Zarr of version 2: its description, checked, and its chunks, unpacked.

Chunks come from strangers. What a chunk unpacks to is bounded before it is unpacked, and only
codecs that cannot run a program are used. hdmf-zarr pickles references, and in older versions
texts: these pickles are read by an unpickler that knows arrays, texts and references only.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from contracts.errors import RecordingError, listed, shown
from stream_sources.recordings.pickles import UnsafePickleError, load_plain
from stream_sources.recordings.zarr_store import MAX_CHUNK_BYTES, UnsafeZarrError

MAX_CHUNKS = 1 << 20
"""Chunks of one array: requests that a store can ask for."""

MAX_DIMENSIONS = 8

COMPRESSORS = frozenset({"blosc", "zstd", "zlib", "gzip", "lz4"})
FILTERS = frozenset({
    "shuffle", "delta", "fixedscaleoffset", "astype", "crc32", "adler32", "fletcher32",
    "vlen-utf8", "vlen-bytes", "json2", "pickle",
})  # fmt: skip
"""Codecs of numcodecs that are used. Others run programs, or cannot be bounded, or are not used for
what is read here."""

VARIABLE_LENGTH = ("vlen-utf8", "vlen-bytes")

KINDS = "biufSUO"
"""NumPy's letters of the types that are read."""


@dataclass(frozen=True, slots=True, eq=False)
class ZarrArray:
    """An array and how its chunks are packed.

    Attributes
    ----------
    filters : tuple of dict
        Settings of numcodecs in the order in which a chunk is unpacked, the compressor first.
    """

    store: str
    path: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype[Any]
    order: Literal["C", "F"]
    separator: str
    filters: tuple[Mapping[str, Any], ...]

    @property
    def n_chunks(self) -> int:
        """Chunks of which it consists, written or not."""
        return math.prod(self._grid())

    @property
    def n_bytes(self) -> int:
        """Bytes of all values; of the pointers to them for texts."""
        return math.prod(self.shape) * self.dtype.itemsize

    def indices(self) -> Iterator[tuple[int, ...]]:
        """Yield the place of each chunk on the grid of chunks."""
        return iter(np.ndindex(self._grid()))

    def key(self, index: tuple[int, ...]) -> str:
        """Return the key of a chunk."""
        return f"{self.path}/{self.separator.join(map(str, index)) or '0'}"

    def region(self, index: tuple[int, ...]) -> tuple[slice, ...]:
        """Return which values of the array a chunk holds."""
        return tuple(
            slice(place * size, min((place + 1) * size, end))
            for place, size, end in zip(index, self.chunks, self.shape, strict=True)
        )

    def unpacked(self, data: bytes, index: tuple[int, ...]) -> NDArray[Any]:
        """Return the values of a chunk, without what lies past the end of the array.

        Raises
        ------
        UnsafeZarrError
            If it would run a program.
        RecordingError
            If the bytes are not those of such a chunk.
        """
        try:
            values = self._decoded(data).reshape(self.chunks, order=self.order)
        except UnsafePickleError as error:
            raise UnsafeZarrError(self.store, f"the chunk {self.key(index)}: {error}") from error
        except Exception as error:  # each codec has errors of its own
            raise RecordingError(
                self.store,
                f"the chunk {self.key(index)} cannot be unpacked: {shown(str(error))}. It may be "
                "damaged; copy or download it again.",
            ) from error
        return values[tuple(slice(0, part.stop - part.start) for part in self.region(index))]

    def _grid(self) -> tuple[int, ...]:
        return tuple(-(-n // size) for n, size in zip(self.shape, self.chunks, strict=True))

    def _decoded(self, data: bytes) -> NDArray[Any]:
        """Undo the filters.

        Raises
        ------
        ValueError
            If the chunk has another size than it must.
        """
        from numcodecs.compat import ensure_ndarray_like

        n_values = math.prod(self.chunks)
        part: Any = data
        for settings in self.filters:
            part = _undone(settings, part, n_values)
        values: NDArray[Any] = ensure_ndarray_like(part)
        if self.dtype.kind == "O":
            if values.dtype.kind != "O" or values.size != n_values:
                text = f"{values.size} values of {values.dtype} are in it, not {n_values} objects"
                raise ValueError(text)
            return values.reshape(-1)
        if values.nbytes != n_values * self.dtype.itemsize or values.dtype.kind == "O":
            text = f"it has {values.nbytes:,} bytes, not {n_values * self.dtype.itemsize:,}"
            raise ValueError(text)
        return np.frombuffer(np.ascontiguousarray(values).data, self.dtype)


def parse_array(store: str, path: str, document: Mapping[str, Any]) -> ZarrArray:
    """Read the description of an array (``.zarray``).

    Raises
    ------
    RecordingError
        If it is none, or the array is larger than what is read, or needs another codec or type.
    """
    try:
        array = ZarrArray(
            store=store,
            path=path,
            shape=_whole(document["shape"], 0),
            chunks=_whole(document["chunks"], 1),
            dtype=np.dtype(str(document["dtype"])),
            order=document["order"],
            separator=document.get("dimension_separator", "."),
            filters=_filters(document),
        )
        problem = _problem(document, array)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RecordingError(
            store, f"{path}/.zarray does not describe an array of Zarr 2: {shown(str(error))}"
        ) from error
    if problem:
        raise RecordingError(store, f"{path}: {problem}")
    return array


def _problem(document: Mapping[str, Any], array: ZarrArray) -> str:
    """Return why an array is not read; empty for no reason."""
    if (
        document["zarr_format"] != 2
        or array.order not in {"C", "F"}
        or array.separator not in {".", "/"}
    ):
        return "zarr_format must be 2, order C or F, and dimension_separator . or /"
    if len(array.shape) != len(array.chunks) or len(array.shape) > MAX_DIMENSIONS:
        return f"its shape {array.shape} and chunks {array.chunks} do not fit"
    if array.dtype.kind not in KINDS or not array.dtype.itemsize:
        return f"its type is {array.dtype}; numbers, texts and references are read"
    names = [shown(str(settings["id"])) for settings in array.filters]
    if unknown := [name for name in names if name not in COMPRESSORS | FILTERS]:
        return (
            f"it is packed with {listed(unknown)}; {listed(sorted(COMPRESSORS))} are read. Write "
            "it again with one of these."
        )
    n_bytes = math.prod(array.chunks) * array.dtype.itemsize
    if n_bytes > MAX_CHUNK_BYTES:
        return f"a chunk has {n_bytes:,} bytes; at most {MAX_CHUNK_BYTES:,} are read"
    if array.n_chunks > MAX_CHUNKS:
        return f"it has {array.n_chunks:,} chunks; at most {MAX_CHUNKS:,} are read"
    return ""


def _whole(values: Any, least: int) -> tuple[int, ...]:
    if not all(type(value) is int and value >= least for value in values):
        text = f"{values} must be whole numbers from {least}"
        raise ValueError(text)
    return tuple(values)


def _filters(document: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    packed = document["compressor"]
    filters = [packed] if packed else []
    return (*filters, *reversed(document["filters"] or ()))


def _undone(settings: Mapping[str, Any], data: Any, n_values: int) -> Any:
    """Undo one codec.

    Raises
    ------
    ValueError
        If the data are not what it makes, or too much would come out.
    """
    from numcodecs import get_codec
    from numcodecs.compat import ensure_bytes

    name = settings["id"]
    if name in {"zlib", "gzip"}:
        return _inflated(ensure_bytes(data))
    if name == "pickle":
        return load_plain(ensure_bytes(data))
    if name == "blosc":
        _check_blosc(ensure_bytes(data))
    if name in VARIABLE_LENGTH and int.from_bytes(ensure_bytes(data)[:4], "little") > n_values:
        text = f"more than {n_values} texts are in it"
        raise ValueError(text)
    return get_codec(dict(settings)).decode(data)


def _inflated(data: bytes) -> bytes:
    stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # either header
    part = stream.decompress(data, MAX_CHUNK_BYTES)
    if not stream.eof:
        text = f"it is cut short, or has more than {MAX_CHUNK_BYTES:,} bytes"
        raise ValueError(text)
    return part


def _check_blosc(data: bytes) -> None:
    """Check the sizes that c-blosc 1 takes from the header, and reads as many bytes.

    Raises
    ------
    ValueError
        If they are not those of the chunk.
    """
    n_unpacked, n_packed = (int.from_bytes(data[first : first + 4], "little") for first in (4, 12))
    if len(data) < 16 or n_packed != len(data):
        text = f"it has {len(data):,} bytes, its header says {n_packed:,}"
        raise ValueError(text)
    if n_unpacked > MAX_CHUNK_BYTES:
        text = f"it would have {n_unpacked:,} bytes"
        raise ValueError(text)
