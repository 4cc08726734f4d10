"""Looks for objects whose keys are computable: it reads them when their writers' timers say so, and counts the reads."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import TypeVar

from lambdaml.errors import RunFailed
from lambdaml.storage.protocol import Bytes
from lambdaml.worker.poll_timer import FLOATS, OWN_UPDATE_FIRST_S, Backoff, Timer
from lambdaml.worker.retention import passed
from lambdaml.worker.shared import Shared

T = TypeVar("T")


class Looks:
    """The looks of one function, for one kind of object."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._counts = {"gets": 0, "polls": 0, "bytes_received": 0}

    def counted(self) -> dict[str, int]:
        """Return the reads since the last call: `gets`, `polls` (looks that found nothing) and `bytes_received`."""
        counts, self._counts = self._counts, dict.fromkeys(self._counts, 0)
        return counts

    async def get(self, key: str, place: tuple[int, int] | None = None) -> tuple[Bytes | None, float]:
        """Return the object's bytes, or None if it does not exist yet, and the seconds that the read took.

        Args:
            place: The offset and the length of the part to read; by default the whole is read.
        """
        shared, start = self._shared, self._shared.world.now()
        store = shared.world.store
        data = await (store.get(key) if place is None else store.get_range(key, *place))
        elapsed_s = shared.world.now() - start
        if data is None:
            self._counts["polls"] += 1
            shared.latency_s += 0.2 * (elapsed_s - shared.latency_s)
        else:
            self._counts["gets"] += 1
            self._counts["bytes_received"] += len(data)
        return data, elapsed_s

    async def find(
        self,
        key: str,
        fetch: Callable[[], Awaitable[T | None]],
        pace: Timer,
        wanted: Callable[[], bool],
        *,
        worker: int,
        behind: bool,
        since_s: float = math.inf,
    ) -> T | None:
        """Look for an object until it is there, and return it, or None once it is not wanted any more.

        Args:
            key: The object's key, for messages.
            fetch: Reads it; None means that it does not exist yet.
            pace: The timer of its writer.
            wanted: Returns whether it is still wanted.
            worker: The worker that messages name while it is awaited.
            behind: Whether it certainly exists, since the log goes further.
            since_s: The moment from which the timer counts, if that was before now.

        Raises:
            RunFailed: If the run's horizon says that it was deleted.
        """
        shared, world = self._shared, self._shared.world
        since = world.now()
        if not behind:
            delay_s = pace.delay_s()
            if delay_s is None:
                await shared.until(lambda: shared.warm, timeout_s=OWN_UPDATE_FIRST_S)
            elif (due_s := min(since, since_s) + delay_s) > since:
                await world.sleep(due_s - since)
        backoff = Backoff(FLOATS, pace.scale_s(shared.latency_s))
        first = world.now()
        missed = False
        while wanted():
            looked = world.now()
            found = await fetch()
            if found is not None:
                if not behind:
                    pace.looked(looked - first if missed else 0.0, shared.latency_s)
                return found
            if not wanted():
                break
            missed = True
            if shared.waits.report(worker, since) and await passed(world, shared.queued.commit):
                raise missing(key)
            await world.sleep(backoff.next_s(world.uniform(0, 1)))
        return None


def missing(key: str) -> RunFailed:
    """Return the error that ends the run, unless a horizon has passed this function; see `lambdaml.log.retention`."""
    return RunFailed(f"{key} is in the log but not in the bucket: was it deleted?")
