"""The key space of one `ray://` store. Its actor runs it in one event loop, so each step is atomic.

It knows Ray only as a function that makes an object owned by this process (`ray.put`), so it can be read and tested
without a cluster. `lambdaml.storage.ray` is the other half.

A large payload arrives as a read-only array over shared memory that its writer owns. Ray deletes a writer's objects
when the writer dies, but frees shared memory only when nobody looks at it any more. So the actor looks at it until it
holds a copy of its own, which it makes in a thread after answering the writer. From the answer on, only the actor's own
death loses the object.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

COPIERS = 2
"""The number of threads that copy payloads."""

Answer = bytes | list[Any] | None
"""The value of a key: its bytes, a list of one reference (Ray would resolve a reference that stood alone), or None."""


class _Object:
    """One object. `small` holds its payload, or else `view` does until `ref` refers to this actor's own copy."""

    __slots__ = ("copying", "modified", "ref", "size_bytes", "small", "view")

    def __init__(self, data: Any) -> None:
        self.modified = time.time()
        self.size_bytes = len(data)
        self.small: bytes | None = data if isinstance(data, bytes) else None
        self.view: Any = None if isinstance(data, bytes) else data
        self.ref: Any = None
        self.copying: asyncio.Future[None] | None = None


class KeySpace:
    """The objects of one store by key. Every method is a coroutine, and none waits while it changes something.

    Args:
        own: A function that makes an object owned by this process out of an array, and returns the reference to it.
    """

    def __init__(self, own: Callable[[Any], Any]) -> None:
        self._own = own
        self._objects: dict[str, _Object] = {}
        self._keys: list[str] = []
        self._waiting: defaultdict[str, set[asyncio.Future[None]]] = defaultdict(set)
        self._copiers = ThreadPoolExecutor(COPIERS)

    async def create(self, key: str, data: Any) -> bool:
        """Write `data` (bytes, or a flat uint8 array) if the key is free, and return whether it was."""
        if key in self._objects:
            return False
        self._write(key, data)
        return True

    async def put(self, key: str, data: Any) -> None:
        """Write `data`, whatever the key holds."""
        self._write(key, data)

    async def get(self, keys: Sequence[str]) -> list[Answer]:
        """Return the value of each key."""
        return [await self._answer(key) for key in keys]

    async def get_range(self, key: str, start: int, length: int) -> Answer:
        """Return these bytes of a small object, or the reference to all of a large one."""
        found = await self._answer(key)
        return found[start : start + length] if isinstance(found, bytes) else found

    async def head(self, key: str) -> tuple[int, float] | None:
        """Return the size in bytes and the time of writing, in seconds since the epoch by this process's clock."""
        found = self._objects.get(key)
        return None if found is None else (found.size_bytes, found.modified)

    async def page(self, prefix: str, after: str, limit: int) -> tuple[list[tuple[str, int, float]], bool]:
        """Return the first `limit` objects of a list, as (key, size, time), and whether there may be more."""
        begin = max(bisect_left(self._keys, prefix), bisect_right(self._keys, after))
        rows: list[tuple[str, int, float]] = []
        for key in self._keys[begin : begin + limit]:
            if not key.startswith(prefix):
                return rows, False
            rows.append((key, self._objects[key].size_bytes, self._objects[key].modified))
        return rows, begin + limit < len(self._keys)

    async def delete(self, keys: Sequence[str]) -> None:
        """Forget these objects. Ray frees those that nobody refers to."""
        for key in keys:
            if self._objects.pop(key, None) is not None:
                del self._keys[bisect_left(self._keys, key)]

    async def wait(self, key: str, timeout_s: float) -> bool:
        """Return whether the key exists within this many seconds. The answer comes as soon as it does."""
        if key in self._objects:
            return True
        arrival = asyncio.get_running_loop().create_future()
        self._waiting[key].add(arrival)
        try:
            await asyncio.wait_for(arrival, timeout_s)
        except TimeoutError:
            return False
        finally:
            self._waiting[key].discard(arrival)
            if not self._waiting[key]:
                del self._waiting[key]
        return True

    def _write(self, key: str, data: Any) -> None:
        if key not in self._objects:
            insort(self._keys, key)
        written = self._objects[key] = _Object(data)
        if written.small is None:
            written.copying = asyncio.ensure_future(self._copy(written))
        for arrival in self._waiting.get(key, ()):
            if not arrival.done():
                arrival.set_result(None)

    async def _answer(self, key: str) -> Answer:
        found = self._objects.get(key)
        if found is None:
            return None
        if found.small is not None:
            return found.small
        if found.ref is None:
            if found.copying is None or found.copying.done():  # copying failed for want of memory
                found.copying = asyncio.ensure_future(self._copy(found))
            await asyncio.shield(found.copying)
        return [found.ref]

    async def _copy(self, found: _Object) -> None:
        found.ref = await asyncio.get_running_loop().run_in_executor(self._copiers, self._own, found.view)
        found.view = None
