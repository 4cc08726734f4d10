"""The parts of a trace, as they stand in the bucket: lines of JSON, the last of which is their checksum."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

from lambdaml.errors import BadObject
from lambdaml.log import keys
from lambdaml.log.reads import read_many
from lambdaml.storage.protocol import ObjectInfo, Store


def pack_rows(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """The bytes of a part: one line of JSON for each row, and a last one with the CRC-32 of those before it."""
    data = b"".join(json.dumps(row, separators=(",", ":")).encode() + b"\n" for row in rows)
    return data + b'{"kind":"end","crc32":"%08x"}\n' % zlib.crc32(data)


def unpack_rows(data: bytes | memoryview, key: str) -> list[dict[str, Any]]:
    """The rows of a part.

    Raises:
        BadObject: it is damaged or truncated.
    """
    raw = bytes(data)
    *lines, end = raw.splitlines(keepends=True) or [b""]
    if end != b'{"kind":"end","crc32":"%08x"}\n' % zlib.crc32(raw[: len(raw) - len(end)]):
        raise BadObject(f"{key} does not match its checksum: it is damaged or truncated ({len(raw)} bytes)")
    return [json.loads(line) for line in lines]


def read_parts(store: Store) -> list[tuple[ObjectInfo, list[dict[str, Any]]]]:
    """What all functions of a run measured, part by part, each function's in their order.

    Raises:
        BadObject: a part is damaged.
    """
    infos = list(store.list(keys.TRACE))
    found = read_many(store, [info.key for info in infos], unpack_rows)
    return [(info, rows or []) for info, rows in zip(infos, found, strict=True)]
