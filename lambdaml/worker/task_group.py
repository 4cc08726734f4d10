"""Runs the coroutines of one function. They meet at one signal, and the first that fails ends them all."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from lambdaml.worker.world import Task, World


class TaskGroup:
    """Runs coroutines beside each other until it is closed.

    Attributes:
        changed: The signal to set after a change of anything that a condition may depend on.
        failure: The exception of the first coroutine that failed.
        closed: Whether nothing new should begin, because the function ends.
    """

    def __init__(self, world: World) -> None:
        self.changed = world.signal()
        self.failure: BaseException | None = None
        self.closed = False
        self._world = world
        self._running: dict[Coroutine[Any, Any, None], Task] = {}

    async def until(self, condition: Callable[[], bool], timeout_s: float | None = None) -> bool:
        """Wait until the condition holds, but no longer than the timeout, and return whether it holds.

        Raises:
            Exception: If a coroutine of this group failed. It is the exception of that coroutine.
        """
        held = await self._world.until(self.changed, lambda: self.failure is not None or condition(), timeout_s)
        if self.failure is not None:
            raise self.failure
        return held

    def spawn(self, task: Coroutine[Any, Any, None]) -> Task:
        """Run a coroutine beside the others. If it fails, all of them fail."""

        async def guarded() -> None:
            try:
                await task
            except Exception as error:
                self.failure = self.failure or error
                self.changed.set()
            finally:
                self._running.pop(task, None)

        self._running[task] = self._world.spawn(guarded())
        return self._running[task]

    async def close(self) -> None:
        """Cancel all coroutines that still run."""
        self.closed = True
        for task in list(self._running.values()):
            task.cancel()
        try:
            await self._world.sleep(0)  # let them see the cancellation
        finally:
            for coroutine in list(self._running):
                coroutine.close()
