"""Reads an object, and reads it again before it believes that the object is damaged.

A byte may go wrong in transit as well as in the store. So an object that does not match its checksum is read again
after growing pauses, and counts as damaged only if no reading was whole. An update that stays damaged is rejected; any
other damaged object ends the work that needed it, with an error that names the object.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from lambdaml.errors import BadObject
from lambdaml.storage.blocking import blocking, run_now
from lambdaml.storage.protocol import Bytes, Store

T = TypeVar("T")
Unpack = Callable[[Bytes, str], T]
"""Turns an object's bytes and key into the value that it holds, and raises BadObject if the bytes are damaged."""

PAUSES_S = (0.02, 0.06, 0.18, 0.54)
"""The pause before each further reading. If one reading in twenty is damaged, one object in three million fails."""


def read_now(store: Store, key: str, unpack: Unpack[T], data: Bytes | None = None) -> T | None:
    """Return the value that the object holds, or None if there is no object. It blocks; functions use
    `lambdaml.worker.reading`.

    Args:
        data: The bytes that a first reading found, if there was one already.

    Raises:
        BadObject: If no reading was whole. It is the error of the last reading.
    """
    return run_now(reread(blocking(store.get), blocking(time.sleep), key, unpack, data))


async def reread(
    get: Callable[[str], Awaitable[Bytes | None]],
    sleep: Callable[[float], Awaitable[None]],
    key: str,
    unpack: Unpack[T],
    data: Bytes | None,
) -> T | None:
    """Read an object until a reading is whole; the loop of `read_now` and of `lambdaml.worker.reading`."""
    data = await get(key) if data is None else data
    for pause_s in PAUSES_S:
        try:
            return None if data is None else unpack(data, key)
        except BadObject:
            await sleep(pause_s)
            data = await get(key)
    return None if data is None else unpack(data, key)


def read_many(store: Store, keys: Sequence[str], unpack: Unpack[T]) -> list[T | None]:
    """Call `read_now` for each key, several at a time, and return the results in the order of `keys`."""
    found = store.get_many(keys)
    return [None if data is None else read_now(store, key, unpack, data) for key, data in zip(keys, found, strict=True)]


def read_twice(store: Store, key: str) -> Bytes | None:
    """Return the bytes of an object that carries no checksum (model.safetensors), once two readings agree on them.

    Raises:
        BadObject: If no two readings agree.
    """
    found = _agreed(store, key)
    return None if found is None else found[0]


def sha256_of(store: Store, key: str) -> str | None:
    """Return the SHA-256 of the bytes that `read_twice` returns."""
    found = _agreed(store, key)
    return None if found is None else found[1]


def _agreed(store: Store, key: str) -> tuple[Bytes, str] | None:
    seen: set[str] = set()
    data: Bytes | None = None
    for pause_s in (0.0, 0.0, *PAUSES_S):
        time.sleep(pause_s)
        data = None  # one copy at a time
        data = store.get(key)
        if data is None:
            return None
        digest = hashlib.sha256(data).hexdigest()
        if digest in seen:
            return data, digest
        seen.add(digest)
    raise BadObject(f"{key} reads differently each time: the store damages what it is asked for")


def demand_present(found: T | None, key: str) -> T:
    """Return what was found of an object that must exist.

    Raises:
        BadObject: If nothing was found.
    """
    if found is None:
        raise BadObject(f"{key} is not there any more")
    return found
