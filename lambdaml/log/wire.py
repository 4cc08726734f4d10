"""Writes objects, and checks them when it reads them.

Objects have two forms. A small record is one JSON object in UTF-8 whose last member is a CRC-32 of everything before
it, so that a person can read it and a program can trust it. Tensors travel in an envelope:

    4 bytes   magic "LML1"
    4 bytes   length H of the header, little-endian
    4 bytes   CRC-32 of header and payload
    4 bytes   zero
    H bytes   JSON header, padded with spaces so that the payload begins at a multiple of 64
    rest      the parts one after the other, raw and little-endian; the header's `parts` has each name, dtype and shape

Nothing that is read is executed, and sizes are checked before anything is allocated.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lambdaml.errors import BadObject, NewerSchema, OlderSchema

SCHEMA = 5
"""The version of every format in this file and in `lambdaml.log.records`."""

_PREAMBLE = struct.Struct("<4sIII")
_MAGIC = b"LML1"
_ALIGN = 64
_CRC_MEMBER = b',"crc32":"'
_DTYPES = ("float32", "float64", "float16", "uint16", "uint8", "int8", "int32", "int64", "bool")

ArrayPart = tuple[str, NDArray[Any]]
"""A named array of an envelope."""


def dump_json(record: Mapping[str, Any]) -> bytes:
    """Return a record as JSON with `schema` first and `crc32` last.

    Floats keep every bit. JSON has no NaN, so a caller gives None for it, which is written as null.
    """
    body = json.dumps({"schema": SCHEMA, **record}, separators=(",", ":"), allow_nan=False).encode()
    return b'%b,"crc32":"%08x"}' % (body[:-1], zlib.crc32(body[:-1]))


def canonical(value: Any) -> bytes:
    """Return the value as JSON that is equal for equal values, in whatever order their members were put."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def load_json(data: bytes | memoryview, key: str) -> dict[str, Any]:
    """Read a record back.

    Raises:
        BadObject: If it is truncated, damaged, or not such a record.
        NewerSchema: If it was written by a newer lambdaml.
    """
    raw = bytes(data)
    at = raw.rfind(_CRC_MEMBER)
    try:
        record = json.loads(raw, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise BadObject(f"{key} is not valid JSON: it is damaged or truncated ({len(raw)} bytes)") from error
    if not isinstance(record, dict):
        raise BadObject(f"{key} is not a record")
    if at < 0 or record.pop("crc32", None) != f"{zlib.crc32(raw[:at]):08x}":
        raise BadObject(f"{key} does not match its checksum")
    check_schema(record, key)
    del record["schema"]
    return record


def check_schema(record: Mapping[str, Any], key: str) -> None:
    """Raise an error if the record's schema is not the one that this version reads."""
    schema = record.get("schema")
    if not isinstance(schema, int):
        raise BadObject(f"{key} names no schema version")
    if schema > SCHEMA:
        raise NewerSchema(f"{key} has schema {schema}, this lambdaml reads {SCHEMA}: install a newer version")
    if schema < SCHEMA:
        raise OlderSchema(
            f"{key} has schema {schema}, this lambdaml reads {SCHEMA}: go on with the version that wrote it"
        )


def pack(header: Mapping[str, Any], parts: Sequence[ArrayPart]) -> tuple[bytes, dict[str, NDArray[Any]]]:
    """Return an envelope with this header and these arrays, and the arrays as views of it.

    Arrays must be contiguous and little-endian. Those returned are read-only views of the envelope.
    """
    shapes = [[name, array.dtype.name, list(array.shape)] for name, array in parts]
    text = json.dumps({"schema": SCHEMA, **header, "parts": shapes}, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-(_PREAMBLE.size + len(text)) % _ALIGN)
    crc = zlib.crc32(text)
    payload = [array.reshape(-1).view(np.uint8).data if array.size else b"" for _, array in parts]
    for piece in payload:
        crc = zlib.crc32(piece, crc)
    data = b"".join([_PREAMBLE.pack(_MAGIC, len(text), crc, 0), text, *payload])
    return data, _arrays(memoryview(data)[_PREAMBLE.size + len(text) :], shapes)


def payload_bytes(parts: Mapping[str, NDArray[Any]]) -> int:
    """Return the bytes that these arrays take in an envelope."""
    return sum(array.nbytes for array in parts.values())


def unpack(data: bytes | memoryview, key: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return the header and the arrays of an envelope. The arrays are read-only views of `data`.

    Raises:
        BadObject: If it is truncated, damaged, or not an envelope.
        NewerSchema: If it was written by a newer lambdaml.
    """
    view, (start, crc, zero) = memoryview(data), _preamble(data, key)
    if zero or start > len(view) or zlib.crc32(view[_PREAMBLE.size :]) != crc:
        raise BadObject(f"{key} does not match its checksum: it is damaged or truncated ({len(view)} bytes)")
    try:
        header = _parsed(view[_PREAMBLE.size : start])
        check_schema(header, key)
        shapes = header.pop("parts")
        del header["schema"]
        return header, _arrays(view[start:], shapes)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise BadObject(f"{key} has a header that does not fit its payload: {error}") from error


def header_of(data: bytes | memoryview, key: str) -> tuple[dict[str, Any] | None, int]:
    """Return the header of an envelope of which only the beginning was read, unchecked, and the bytes up to its end; no
    header if more would have to be read.

    Raises:
        BadObject: If it is no envelope.
        NewerSchema: If a newer lambdaml wrote it.
    """
    view, (end, _, _) = memoryview(data), _preamble(data, key)
    if end > len(view):
        return None, end
    try:
        header = _parsed(view[_PREAMBLE.size : end])
    except (ValueError, TypeError, RecursionError) as error:
        raise BadObject(f"{key} has a header that cannot be read: {error}") from error
    check_schema(header, key)
    return header, end


def _preamble(data: bytes | memoryview, key: str) -> tuple[int, int, int]:
    """Return the end of an envelope's header, its checksum, and what must be zero.

    Raises:
        BadObject: If it is no envelope.
    """
    view = memoryview(data)
    if len(view) < _PREAMBLE.size or bytes(view[:4]) != _MAGIC:
        raise BadObject(f"{key} is not an update: it is damaged or truncated ({len(view)} bytes)")
    _, length, crc, zero = _PREAMBLE.unpack(view[: _PREAMBLE.size])
    return _PREAMBLE.size + length, crc, zero


def _parsed(text: memoryview) -> dict[str, Any]:
    header = json.loads(bytes(text), parse_constant=_refuse)
    if not isinstance(header, dict):
        raise TypeError("no header")
    return header


def _refuse(constant: str) -> None:
    """Raise ValueError for `NaN` and the like, which Python reads although JSON has no such thing."""
    raise ValueError(f"{constant} is no JSON")


def _arrays(payload: memoryview, shapes: list[Any]) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    offset = 0
    for name, dtype, shape in shapes:
        if dtype not in _DTYPES or name in arrays or min(shape, default=0) < 0:
            raise ValueError(f"part {name!r} of dtype {dtype!r} and shape {shape!r}")
        count = math.prod(shape)
        array = np.frombuffer(payload, dtype=dtype, count=count, offset=offset) if count else np.empty(0, dtype)
        arrays[name] = array.reshape(shape)
        offset += array.nbytes
    if offset != len(payload):
        raise ValueError(f"{len(payload)} bytes of payload where {offset} were announced")
    return arrays
