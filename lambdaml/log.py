"""Reading the log as it grows: for functions that do not decide commits themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lambdaml import keys
from lambdaml.pace import Backoff, Pace
from lambdaml.records import Commit

if TYPE_CHECKING:
    from lambdaml.function import Function

_BURST = 8
"""Entries read at once by a reader that is behind."""


class LogReader:
    """Yields log entries in order, looking for the next when the pace of the log says that it should be there."""

    def __init__(self, function: Function) -> None:
        self._function = function
        self._ready: dict[int, Commit] = {}
        self._pace = Pace()
        self._found_at = 0.0
        self._burst = 1

    async def next(self) -> Commit | None:
        """The entry that follows the function's head; None if there is none yet (look again)."""
        function = self._function
        commit = function.head.commit
        if commit not in self._ready:
            behind = function.tail - commit
            if behind <= 0:
                await self._pause()
            await self._read(range(commit, commit + min(_BURST, max(behind, self._burst))))
        return self._ready.pop(commit, None)

    async def _pause(self) -> None:
        world = self._function.world
        delay_s = self._pace.delay_s()
        if delay_s is not None and self._burst == 1:
            await world.sleep(max(0.0, self._found_at + delay_s - world.now()))

    async def _read(self, wanted: range) -> None:
        function, world = self._function, self._function.world
        latency_s = function.channel.latency_s
        backoff = Backoff(self._pace.scale_s(latency_s))
        first, missed = world.now(), False
        while True:
            looked = world.now()
            found = await world.store.get_many([keys.log(commit) for commit in wanted])
            for commit, data in zip(wanted, found, strict=True):
                if data is not None:
                    self._take(Commit.unpack(data, commit))
            if found[0] is not None and self._burst == 1:
                self._pace.looked(looked - first if missed else None, latency_s)
            self._burst = 1 if missed or None in found else min(_BURST, self._burst * 2)
            if found[0] is not None or function.committer.active or function.head.stop is not None:
                return
            wanted, missed = wanted[:1], True
            function.waits_for(0, first)
            await world.sleep(backoff.next_s(world.uniform(0, 1)))

    def _take(self, commit: Commit) -> None:
        world = self._function.world
        self._ready[commit.commit] = commit
        self._pace.expect(commit.next_s)
        self._found_at = world.now()
