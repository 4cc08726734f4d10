"""The one protocol through which every object store is reached.

A store is a flat map from keys to immutable byte strings under one prefix. Keys are relative, use `/` as separator
and never begin with it. All methods block, may be called from many threads at once, and must not be called across a
`fork`: open the store again in the child, from `store.url`.
"""

from __future__ import annotations

import random
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

Data = bytes | bytearray | memoryview
"""The types that may be written: one contiguous run of bytes."""

Bytes = bytes | memoryview
"""The types that are read back, never writable. A `memoryview` may map a file; copy what must outlive it."""

MANY = 16
"""The number of requests that `Store.get_many` has in flight at once."""

_FIRST_LOOK_S = 0.002
_LONGEST_PAUSE_S = 1.0
"""The shortest and the longest pause of `Store.wait`, which grow from the one to the other."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """The facts that a store tells about an object without sending it.

    Attributes:
        key: The object's key, relative to the store's prefix.
        size_bytes: The object's size.
        modified: The time of its last write in seconds since the epoch, **by the store's own clock** (S3 rounds it to a
            whole second).
    """

    key: str
    size_bytes: int
    modified: float


class Store(ABC):
    """An object store under one prefix.

    Attributes:
        url: The URL that opens the same store in another process, wrappers included.
        shared: Whether other processes of this machine can open it at all (`memory://` cannot be opened).
        ephemeral: Whether its objects end with this process (`memory://`, `moto://`).
        near: Whether a request for a small object costs less than handing it to another thread.
    """

    url: str
    shared: bool = True
    ephemeral: bool = False
    near: bool = False

    @abstractmethod
    def get(self, key: str) -> Bytes | None:
        """Return the object's bytes, or None where there is no such object."""

    @abstractmethod
    def get_range(self, key: str, start: int, length: int) -> Bytes | None:
        """Return at most `length` bytes from offset `start`, or None where there is no such object."""

    @abstractmethod
    def put(self, key: str, data: Data) -> None:
        """Write the object, replacing any that exists. Runs use it for nothing that matters: see `create`."""

    @abstractmethod
    def create(self, key: str, data: Data) -> Bytes | None:
        """Write the object if the key is free, and leave it alone otherwise.

        Returns None if `data` is now stored at `key` because of this call, else the bytes that are stored there
        instead. When several callers race, exactly one gets None.

        A lost answer looks like a lost race: clients retry a put whose answer was lost and are then told that the key
        exists. Every backend therefore reads back after "already exists" and after an ambiguous failure, and compares.
        That settles it only if no two callers write equal bytes: put a token of the writer into each object.
        """

    @abstractmethod
    def head(self, key: str) -> ObjectInfo | None:
        """Return the object's size and time, or None where there is no such object."""

    @abstractmethod
    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        """Yield objects whose key begins with `prefix` and is greater than `after`, in the order of their keys.

        `prefix` is a string prefix, not a folder. Pages are fetched as they are needed (S3: 1,000 keys a page).
        """

    @abstractmethod
    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects. A key that does not exist is no error."""

    def get_many(self, keys: Sequence[str]) -> Sequence[Bytes | None]:
        """Call `get` for each key, `MANY` at a time, and return the results in the order of `keys`."""
        if len(keys) <= 1 or self.near:
            return [self.get(key) for key in keys]
        with ThreadPoolExecutor(max_workers=min(MANY, len(keys))) as pool:
            return list(pool.map(self.get, keys))

    def wait(self, key: str, timeout_s: float) -> bool:
        """Wait until the object exists, for `timeout_s` seconds at most, and return whether it does.

        A store that is told of new keys (`ray://`) answers as soon as the key exists, for one request. The others are
        asked by `head`, at once and then after pauses that double from 2 ms to 1 s, each shortened by up to a half at
        random: some ten requests in the first three seconds, then about four in three.
        """
        deadline = time.monotonic() + timeout_s
        pause_s = _FIRST_LOOK_S
        while self.head(key) is None:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            time.sleep(min(left_s, pause_s * random.uniform(0.5, 1.0)))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        return True

    def free_bytes(self) -> int | None:
        """Return how many more bytes the store can take, or None where no bound is known."""
        return None

    def close(self) -> None:
        """Free what the store holds (threads, connections, a server it started)."""
