"""Updates in slices: an object of which others read a part each, every part with a checksum and an origin of its own.

A codec whose records have a fixed length can be cut anywhere between two of them. The object has one block a slice, all
at places that follow from run.json, then an envelope (`lambdaml.log.wire`) with the update's header and whatever no
slice holds, then the length of that envelope:

    block        64 bytes: magic "LMS1", CRC-32 of the rest of the block, worker, sequence number, base commit,
                 generation, samples, base, number of the slice, number of slices, seconds until the put; then the arrays of
                 the slice, each filled up to 8 bytes, and the block to 64
    envelope     as of any other update, without the codec's arrays
    16 bytes     magic "LMS1", 4 bytes zero, length of the envelope (8 bytes)

If the update is large, each block is an object of its own, and the update's object, which is created after them, is the
envelope alone. So an update may be larger than any object, and larger than what a function can hold of it. Two functions
that work as the same worker may both write blocks: they are the same but for the generation and the seconds.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lambdaml.errors import BadObject
from lambdaml.log import wire

_MAGIC = b"LMS1"
_PREAMBLE = struct.Struct("<4sIIIQQIIIIf")
_FOOTER = struct.Struct("<4sIQ")
_ALIGN, _FILL = 64, 8
APART_BYTES = 128 * 2**20
"""The blocks of an update of more bytes than this are objects of their own."""

TAIL_BYTES = 2**16
"""Whoever reads the last slice reads so many bytes more, for the envelope behind it."""


_Arrays = dict[str, NDArray[Any]]


class Part(NamedTuple):
    """An array of a codec's bodies.

    Attributes:
        name: Its name.
        dtype: Its dtype.
        row: The shape of what one record has of it; of the whole array if it is not cut.
        cut: Whether it has a row for each record.
    """

    name: str
    dtype: str
    row: tuple[int, ...]
    cut: bool

    def size_bytes(self, records: int) -> int:
        """Return its bytes in a slice of this many records."""
        return np.dtype(self.dtype).itemsize * math.prod(self.row) * (records if self.cut else 1)


class Block(NamedTuple):
    """A slice of an update, as it was read.

    Attributes:
        worker, seq, base_commit, base, generation, samples: The members of the update's header that have these names.
        made_s: The seconds from when the worker was allowed to start until the object was there, as far as its publisher
            could know; NaN if it could not.
        body: The codec's arrays for the slice.
    """

    worker: int
    seq: int
    base_commit: int
    base: int
    generation: int
    samples: int
    made_s: float
    body: _Arrays


@dataclass(frozen=True, slots=True)
class Slicing:
    """The way in which the updates of a run are cut.

    Attributes:
        count: The number of slices.
        elements: The number of numbers in a vector.
        record: The number of them in a record.
        parts: The arrays of the codec's bodies.
        apart: Whether each block is an object of its own.
    """

    count: int
    elements: int
    record: int
    parts: tuple[Part, ...]
    apart: bool = False

    @property
    def records(self) -> int:
        """The number of records in a vector; the last one may be filled up."""
        return -(-self.elements // self.record)

    def cut(self, index: int) -> slice:
        """Return the records of a slice."""
        return slice(self.records * index // self.count, self.records * (index + 1) // self.count)

    def span(self, index: int) -> slice:
        """Return the elements of a slice."""
        cut = self.cut(index)
        return slice(min(cut.start * self.record, self.elements), min(cut.stop * self.record, self.elements))

    def length(self, index: int) -> int:
        """Return the bytes of a block."""
        cut = self.cut(index)
        return _filled(_PREAMBLE_BYTES + sum(_filled(p.size_bytes(cut.stop - cut.start), _FILL) for p in self.parts))

    def offset(self, index: int) -> int:
        """Return where a block begins."""
        return sum(self.length(before) for before in range(index))

    def block(self, index: int, header: Mapping[str, Any], body: _Arrays) -> bytes:
        """Return a block of the update that has this header and body."""
        cut = self.cut(index)
        pieces = []
        for part in self.parts:
            array = np.ascontiguousarray(body[part.name][cut] if part.cut else body[part.name])
            raw = array.reshape(-1).view(np.uint8)
            pieces += [raw.data if raw.size else b"", b"\0" * (-raw.size % _FILL)]
        pieces.append(b"\0" * (self.length(index) - _PREAMBLE_BYTES - sum(map(len, pieces))))
        made_s = math.nan if header["upload_s"] is None else header["ready_s"] + header["upload_s"]
        facts = (header[name] for name in ("worker", "generation", "seq", "base_commit", "samples", "base"))
        head = _PREAMBLE.pack(_MAGIC, 0, *facts, index, self.count, made_s).ljust(_PREAMBLE_BYTES, b"\0")
        crc = zlib.crc32(head[8:])
        for piece in pieces:
            crc = zlib.crc32(piece, crc)
        return b"".join([head[:4], struct.pack("<I", crc), head[8:], *pieces])

    def read(self, data: bytes | memoryview, index: int, key: str) -> Block:
        """Read a block.

        Raises:
            BadObject: If it is truncated or damaged, or is another block.
        """
        view = memoryview(data)[: self.length(index)]
        if len(view) < self.length(index) or bytes(view[:4]) != _MAGIC:
            raise BadObject(f"{key} has no slice {index}: it is damaged or truncated")
        _, crc, worker, generation, seq, base_commit, samples, base, number, count, made_s = _PREAMBLE.unpack(
            view[: _PREAMBLE.size]
        )
        if zlib.crc32(view[8:]) != crc or (number, count) != (index, self.count):
            raise BadObject(f"slice {index} of {key} does not match its checksum")
        body: _Arrays = {}
        cut, at = self.cut(index), _PREAMBLE_BYTES
        for part in self.parts:
            size = part.size_bytes(cut.stop - cut.start)
            shape = (cut.stop - cut.start, *part.row) if part.cut else part.row
            body[part.name] = np.frombuffer(view[at : at + size], part.dtype).reshape(shape)
            at += _filled(size, _FILL)
        return Block(worker, seq, base_commit, base, generation, samples, made_s, body)

    def read_of(self, update: tuple[int, int], data: bytes | memoryview, index: int, key: str) -> Block:
        """Read a block of the update of this worker and sequence number.

        Raises:
            BadObject: If it is truncated or damaged, or is another block.
        """
        block = self.read(data, index, key)
        if (block.worker, block.seq) != update:
            raise BadObject(f"{key} holds a slice of update {(block.worker, block.seq)}")
        return block

    def join(self, blocks: Sequence[Block]) -> _Arrays:
        """Return the arrays that all blocks of an update make, in order."""
        body: _Arrays = {}
        for part in self.parts:
            found = [block.body[part.name] for block in blocks]
            body[part.name] = np.concatenate(found) if part.cut else found[0]
        return body

    def dump(self) -> list[Any]:
        """Return plain values, from which `load` makes it again."""
        parts = [[*part[:2], list(part.row), part.cut] for part in self.parts]
        return [self.count, self.elements, self.record, parts, self.apart]

    @staticmethod
    def load(values: list[Any]) -> Slicing:
        """Read what `dump` returned. Raises ValueError or TypeError for anything else."""
        count, elements, record, parts, apart = values
        found = tuple(Part(str(name), str(dtype), tuple(map(int, row)), bool(cut)) for name, dtype, row, cut in parts)
        slicing = Slicing(int(count), int(elements), int(record), found, bool(apart))
        if min(slicing.count, slicing.record) < 1 or any(min(part.row, default=0) < 0 for part in found):
            raise ValueError(f"{values!r} is no way to cut an update")
        return slicing


def largest_block(slicing: Slicing) -> int:
    """Return the bytes of the largest block."""
    return max(map(slicing.length, range(slicing.count)))


def pack_slices(slicing: Slicing, header: Mapping[str, Any], body: _Arrays) -> tuple[bytes, _Arrays]:
    """Return the object of an update, and its arrays, which no longer alias others unless the blocks lie apart."""
    cut = {part.name for part in slicing.parts}
    beside = [(name, array) for name, array in body.items() if name not in cut]
    envelope, rest = wire.pack({**header, "slices": slicing.dump()}, beside)
    if slicing.apart:
        return envelope, body | rest
    blocks = [slicing.block(index, header, body) for index in range(slicing.count)]
    data = b"".join([*blocks, envelope, _FOOTER.pack(_MAGIC, 0, len(envelope))])
    return data, {name: np.array(body[name]) for name in body if name in cut} | rest


def is_sliced(data: bytes | memoryview) -> bool:
    """Return whether these bytes are of an update in slices."""
    return bytes(memoryview(data)[:4]) == _MAGIC


def envelope(data: bytes | memoryview, key: str) -> tuple[dict[str, Any], _Arrays]:
    """Return the header, and the arrays beside the slices, of an update of which at least the end was read.

    Raises:
        BadObject: If it is truncated or damaged, or more of it would have to be read.
    """
    return wire.unpack(_split(data, key)[1], key)


def whole(data: bytes | memoryview, key: str) -> tuple[dict[str, Any], _Arrays]:
    """Return the header and all arrays of an update whose blocks lie in the same object.

    Raises:
        BadObject: If it is truncated or damaged.
    """
    if not is_sliced(data):
        return wire.unpack(data, key)
    blocks, rest = _split(data, key)
    header, body = wire.unpack(rest, key)
    slicing = slicing_in(header, key)
    if slicing is None:
        raise BadObject(f"{key} does not say how it was cut")
    pieces, at = [], 0
    for index in range(slicing.count):
        pieces.append(slicing.read(blocks[at : at + slicing.length(index)], index, key))
        at += slicing.length(index)
    return header, body | slicing.join(pieces)


def slicing_in(header: Mapping[str, Any], key: str) -> Slicing | None:
    """Return how an update with this header was cut; None if it was not.

    Raises:
        BadObject: If the header says something else.
    """
    try:
        return Slicing.load(header["slices"]) if "slices" in header else None
    except (TypeError, ValueError) as error:
        raise BadObject(f"{key} does not say how it was cut: {error}") from error


def _split(data: bytes | memoryview, key: str) -> tuple[memoryview, memoryview]:
    """Return the blocks and the envelope of an update."""
    view = memoryview(data)
    if len(view) >= _FOOTER.size:
        magic, zero, length = _FOOTER.unpack(view[-_FOOTER.size :])
        start = len(view) - _FOOTER.size - length
        if magic == _MAGIC and zero == 0 and start >= 0:
            return view[:start], view[start : -_FOOTER.size]
    raise BadObject(f"{key} has no end: it is damaged or truncated ({len(view)} bytes)")


_PREAMBLE_BYTES = 64


def _filled(size: int, to: int = _ALIGN) -> int:
    return -(-size // to) * to
