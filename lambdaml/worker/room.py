"""Bounds what a function does at once with slices that are objects of their own: by bytes, and by turns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable
from types import TracebackType

from lambdaml.worker.task_group import TaskGroup

ROOM_BYTES = 64 * 2**20
"""Slices may take this much of a function's memory, or what a few of them need if that is more."""


class Room:
    """The bytes of slices that a function has in memory at once. A slice that is larger than the limit goes alone.

    Attributes:
        limit_bytes: The most bytes.
        used_bytes: The bytes that are taken now.
        most_bytes: The most bytes that were taken at once.
    """

    def __init__(self, tasks: TaskGroup) -> None:
        self.limit_bytes = ROOM_BYTES
        self.used_bytes = self.most_bytes = 0
        self._tasks = tasks
        self._taken: defaultdict[Hashable, int] = defaultdict(int)

    async def take(self, owner: Hashable, size_bytes: int) -> None:
        """Wait until there is room for so many bytes, and take it."""
        while self.used_bytes and self.used_bytes + size_bytes > self.limit_bytes:
            await self._tasks.until(self._fits(size_bytes))
        self.used_bytes += size_bytes
        self.most_bytes = max(self.most_bytes, self.used_bytes)
        self._taken[owner] += size_bytes

    def give(self, owner: Hashable) -> None:
        """Give back all that this owner took."""
        if size_bytes := self._taken.pop(owner, 0):
            self.used_bytes -= size_bytes
            self._tasks.changed.set()

    def move(self, owner: Hashable, heir: Hashable) -> None:
        """Let another owner have all that this owner took."""
        self._taken[heir] += self._taken.pop(owner, 0)

    def _fits(self, size_bytes: int) -> Callable[[], bool]:
        return lambda: not self.used_bytes or self.used_bytes + size_bytes <= self.limit_bytes


class Exclusive:
    """Lets one coroutine of a function at a time into a block of code. It is an asynchronous context manager."""

    def __init__(self, tasks: TaskGroup) -> None:
        self._tasks = tasks
        self._taken = False

    async def __aenter__(self) -> None:
        while self._taken:
            await self._tasks.until(lambda: not self._taken)
        self._taken = True

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._taken = False
        self._tasks.changed.set()
