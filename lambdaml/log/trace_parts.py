"""The format of a trace's parts in the bucket: lines of JSON, the last of which is their checksum."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

from lambdaml.errors import BadObject
from lambdaml.storage import MeterReading


def pack_rows(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Return the bytes of a part: one line of JSON for each row, and a last line with the CRC-32 of those before it."""
    data = b"".join(json.dumps(row, separators=(",", ":")).encode() + b"\n" for row in rows)
    return data + b'{"kind":"end","crc32":"%08x"}\n' % zlib.crc32(data)


def unpack_rows(data: bytes | memoryview, key: str) -> list[dict[str, Any]]:
    """Return the rows of a part.

    Raises:
        BadObject: If the part is damaged or truncated.
    """
    raw = bytes(data)
    *lines, end = raw.splitlines(keepends=True) or [b""]
    if end != b'{"kind":"end","crc32":"%08x"}\n' % zlib.crc32(raw[: len(raw) - len(end)]):
        raise BadObject(f"{key} does not match its checksum: it is damaged or truncated ({len(raw)} bytes)")
    rows: list[dict[str, Any]] = json.loads(b"[" + b",".join(lines) + b"]")
    return rows


def meter_reading(row: Mapping[str, Any]) -> MeterReading:
    """Return what a `meter` row says about its function's requests."""
    return MeterReading.from_dict({key: value for key, value in row.items() if key not in ("kind", "seconds")})
