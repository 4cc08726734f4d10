"""Reads the log as it grows, for functions that do not decide commits themselves."""

from __future__ import annotations

import math

from lambdaml.log import keys
from lambdaml.log.records import Commit
from lambdaml.worker.poll_timer import BURST, FLOATS, Backoff, entry_due_s, entry_scale_s
from lambdaml.worker.reading import read
from lambdaml.worker.shared import Shared


class LogReader:
    """Returns log entries in order, and looks for the next one when the writer's forecast says that it may exist."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._ready: dict[int, Commit] = {}
        self._found_at = -math.inf
        self._next_s = 0.0
        self._burst = 1

    async def next(self) -> Commit | None:
        """Return the entry that follows the known log state, or None if it does not exist yet; then look again."""
        commit = self._shared.known.commit
        if commit not in self._ready:
            behind = self._shared.tail - commit
            if behind <= 0 and self._burst == 1:
                await self._pause()
            await self._read(range(commit, commit + min(BURST, max(behind, self._burst))))
        return self._ready.pop(commit, None)

    async def _pause(self) -> None:
        world = self._shared.world
        look_at = entry_due_s(self._found_at, self._shared.latency_s, self._next_s)
        if look_at > world.now():
            await world.sleep(look_at - world.now())

    async def _read(self, wanted: range) -> None:
        shared, world = self._shared, self._shared.world
        backoff = Backoff(FLOATS, entry_scale_s(FLOATS, shared.latency_s, self._next_s))
        since, missed = world.now(), False
        while True:
            found = await world.store.get_many([keys.log(commit) for commit in wanted])
            for commit, data in zip(wanted, found, strict=True):
                entry = None if data is None else await read(world, keys.log(commit), Commit.read, data)
                if entry is not None:
                    self._take(entry)
            self._burst = 1 if missed or None in found else min(BURST, self._burst * 2)
            if found[0] is not None or shared.writes_log or shared.known.stop is not None:
                return
            wanted, missed = wanted[:1], True
            shared.waits.report(0, since)
            await world.sleep(backoff.next_s(world.uniform(0, 1)))

    def _take(self, commit: Commit) -> None:
        self._ready[commit.commit] = commit
        self._next_s = commit.next_s
        self._found_at = self._shared.world.now()
