"""The store in this process's memory, for tests, the virtual world, and trying things out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from lambdaml.storage.backend import LOCAL_PAGE, Backend, Page, check_key, flat
from lambdaml.storage.protocol import Bytes, Data, ObjectInfo
from lambdaml.storage.url import StoreURL

_stores: dict[str, dict[str, tuple[bytes, float]]] = {}
_stores_lock = threading.Lock()


def open_backend(url: StoreURL) -> MemoryStore:
    """Open `memory://name`. Within one process, the same name is the same store."""
    return MemoryStore(url.location)


class MemoryStore(Backend):
    """A store that keeps objects in a dict until the process ends or `drop` is called; `close` keeps them.

    Writing copies the bytes, so a caller may reuse its buffer; reading does not.

    Args:
        clock: The clock that dates the objects, in seconds since the epoch.
    """

    def __init__(
        self,
        name: str = "",
        objects: dict[str, tuple[bytes, float]] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self.url = f"memory://{name}"
        self.shared = False
        self.ephemeral = True
        self.near = True
        self._clock = clock
        with _stores_lock:
            self._objects = _stores.setdefault(name, {}) if objects is None else objects

    @classmethod
    def holding(
        cls, objects: dict[str, tuple[bytes, float]], name: str = "", clock: Callable[[], float] = time.time
    ) -> MemoryStore:
        """Return a store that holds these objects, given as bytes and time of writing by key. No name finds it."""
        return cls(name, objects, clock)

    def get(self, key: str) -> Bytes | None:
        found = self._objects.get(key)
        return None if found is None else found[0]

    def get_range(self, key: str, start: int, length: int) -> Bytes | None:
        found = self.get(key)
        return None if found is None else found[start : start + length]

    def put(self, key: str, data: Data) -> None:
        self._objects[check_key(key)] = (bytes(flat(data)), self._clock())

    def try_create(self, key: str, data: Data) -> bool:
        mine = (bytes(flat(data)), self._clock())
        return self._objects.setdefault(check_key(key), mine) is mine

    def head(self, key: str) -> ObjectInfo | None:
        found = self._objects.get(key)
        return None if found is None else ObjectInfo(key, len(found[0]), found[1])

    def page(self, prefix: str, after: str) -> Page:
        keys = sorted(key for key in self._objects.copy() if key.startswith(prefix) and key > after)
        infos = [info for key in keys[:LOCAL_PAGE] if (info := self.head(key)) is not None]
        return Page(infos, keys[LOCAL_PAGE - 1] if len(keys) > LOCAL_PAGE else None)

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._objects.pop(key, None)

    def drop(self) -> None:
        """Forget every object, and also the name if it belongs to this store."""
        with _stores_lock:
            self._objects.clear()
            if _stores.get(self.name) is self._objects:
                del _stores[self.name]
