"""Reading an object, and reading it again before it is believed damaged.

A byte may go wrong on its way as well as at its place. So what does not match its checksum is read again after growing
pauses, and believed damaged only when no reading was whole. An update that stays damaged is rejected; every other object
ends what needed it, with its name.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from lambdaml.errors import BadObject
from lambdaml.storage.protocol import Bytes, Store

T = TypeVar("T")
Unpack = Callable[[Bytes, str], T]
"""Makes of an object's bytes and its key what it holds; raises BadObject where they are damaged."""

PAUSES_S = (0.02, 0.06, 0.18, 0.54)
"""Before each further reading. Of reads that are damaged one time in twenty, one object in three million fails so."""


def read_now(store: Store, key: str, unpack: Unpack[T], data: Bytes | None = None) -> T | None:
    """What the object holds, or None where there is none. It blocks; functions have `lambdaml.worker.reading`.

    Args:
        data: what a first reading found, if there was one already.

    Raises:
        BadObject: no reading was whole; the last one's complaint.
    """
    data = store.get(key) if data is None else data
    for pause_s in PAUSES_S:
        try:
            return None if data is None else unpack(data, key)
        except BadObject:
            time.sleep(pause_s)
            data = store.get(key)
    return None if data is None else unpack(data, key)


def read_many(store: Store, keys: Sequence[str], unpack: Unpack[T]) -> list[T | None]:
    """`read_now` for each key, several at a time; results in the order of `keys`."""
    found = store.get_many(keys)
    return [None if data is None else read_now(store, key, unpack, data) for key, data in zip(keys, found, strict=True)]


def read_twice(store: Store, key: str) -> Bytes | None:
    """The bytes of an object that carries no checksum (model.safetensors): as two readings agree that they are.

    Raises:
        BadObject: no two readings agree.
    """
    found = _agreed(store, key)
    return None if found is None else found[0]


def sha256_of(store: Store, key: str) -> str | None:
    """The SHA-256 of what `read_twice` gives."""
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
    """What was found of an object that must be there.

    Raises:
        BadObject: nothing was.
    """
    if found is None:
        raise BadObject(f"{key} is not there any more")
    return found
