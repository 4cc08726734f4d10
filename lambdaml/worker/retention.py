"""Deletes the history that a run need not keep, while the run goes on. Whoever writes the log does this.

`lambdaml.log.retention` says what the horizon is, and in which order it is published and objects are deleted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from lambdaml.events import HorizonEvent
from lambdaml.log import keys
from lambdaml.log.retention import Horizon, Sizes, newest_memories, pinned_version, updates_between
from lambdaml.storage.backend import batches
from lambdaml.worker.reading import read
from lambdaml.worker.shared import Shared
from lambdaml.worker.stop_watcher import StopWatcher
from lambdaml.worker.world import World


class Retention:
    """Moves the horizon of a run whose history is bounded, in the function that holds worker 0."""

    def __init__(self, shared: Shared, stops: StopWatcher) -> None:
        self._shared = shared
        self._stops = stops
        self._update_bytes = self._snapshot_bytes = 0
        self._marks: deque[Horizon] = deque()  # snapshots written here, each of which may become the horizon
        self._horizons = [Horizon(0, 0, (0,) * shared.settings.workers)]  # everything before the first is deleted
        self._known = False
        self._due = False

    def applied(self, size_bytes: int) -> None:
        """Note that an update of this size was applied."""
        self._update_bytes = max(self._update_bytes, size_bytes)

    def wrote(self, log_state: Mapping[str, Any], size_bytes: int) -> None:
        """Note that a snapshot was written here, and that no other function had written it before."""
        self._snapshot_bytes = max(self._snapshot_bytes, size_bytes)
        self._marks.append(Horizon.of(log_state))
        self._due = True

    async def keep(self) -> None:
        """Delete what the bound demands after each snapshot, until the run ends."""
        shared = self._shared
        while shared.settings.keep_bytes is not None:
            await shared.until(lambda: self._due)
            self._due = False
            if shared.writes_log and shared.wish is None and shared.known.stop is None:
                await self._advance(shared.settings.keep_bytes)

    async def _advance(self, keep_bytes: int) -> None:
        shared, store = self._shared, self._shared.world.store
        sizes = Sizes(self._update_bytes, self._snapshot_bytes, shared.settings.updates_per_snapshot)

        def exceeds(place: Horizon) -> bool:
            """Return whether the history from there on exceeds the bound, or will when two more snapshots exist. A
            successor takes its first snapshot before it can delete up to it."""
            return sizes.history(shared.known.progress - place.progress + 2 * sizes.every) > keep_bytes

        if not self._marks or not exceeds(self._horizons[-1]):
            return
        if not self._known:  # another function may have published some
            self._horizons = await _published(shared.world) or self._horizons
            self._known = True
        limit = min([*await self._pinned(), *self._stops.unjudged, self._marks[-1].version])
        wanted = next((mark for mark in self._marks if not exceeds(mark)), self._marks[-1])
        memories = await self._memories()
        newest = None if memories is None else newest_memories(memories, shared.settings.workers)
        allowed = [
            mark
            for mark in self._marks
            if mark.version <= min(limit, wanted.version) and self._fences(mark) and mark.leaves(newest)
        ]
        if exceeds(self._horizons[-1]) and allowed and allowed[-1].commit > self._horizons[-1].commit:
            await store.create(keys.horizon(allowed[-1].commit), allowed[-1].dump())
            self._horizons.append(allowed[-1])
        await self._delete(memories or [])

    async def _memories(self) -> list[tuple[int, int]] | None:
        """Return the memories in the bucket, each by its worker and the number of updates that it follows; None in a run
        without memory."""
        if not self._shared.replica.parts.remembers:
            return None
        return [keys.update_id(info.key) for info in await self._shared.world.store.list(keys.MEMORY)]

    def _fences(self, place: Horizon) -> bool:
        """Return whether a function that thaws is certain to notice that it was replaced.

        Without reading the log, it may publish again the updates that were deleted before this place. It notices when
        it meets an update that still exists.
        """
        shared = self._shared
        pairs = zip(shared.known.next_seq, place.next_seq, strict=True)
        return not shared.schedule.deterministic or all(now > then for now, then in pairs)

    async def _delete(self, memories: Sequence[tuple[int, int]]) -> None:
        """Delete everything below the newest horizon that the pins allow, of these memories those that nobody can need:
        newer ones exist, and the updates after them are deleted."""
        store, first = self._shared.world.store, self._horizons[0]
        limit = min(await self._pinned(), default=self._horizons[-1].version)
        passed = [horizon for horizon in self._horizons if horizon.version <= limit]
        if not passed or passed[-1] == first:
            return
        last = passed[-1]
        older = [info.key for info in await store.list(keys.SNAPSHOTS) if keys.number(info.key) < last.version]
        spent = [keys.horizon(horizon.commit) for horizon in passed[:-1]]
        newest = newest_memories(memories, self._shared.settings.workers)
        forgotten = [keys.memory(w, seq) for w, seq in memories if seq < min(newest[w], last.next_seq[w])]
        for doomed in (older, updates_between(first, last), forgotten, spent):
            for batch in batches(doomed):
                await store.delete(batch)
        self._horizons = self._horizons[len(passed) - 1 :]
        self._marks = deque(mark for mark in self._marks if mark.commit > last.commit)
        self._shared.world.emit(HorizonEvent(version=last.version))

    async def _pinned(self) -> list[int]:
        """Return the versions that pins name."""
        world = self._shared.world
        found = [await read(world, info.key, pinned_version) for info in await world.store.list(keys.PINS)]
        return [version for version in found if version is not None]


async def _published(world: World) -> list[Horizon]:
    """Return the published horizons that still exist, the newest last."""
    found = [await read(world, info.key, Horizon.read) for info in await world.store.list(keys.HORIZONS)]
    return [horizon for horizon in found if horizon is not None]


async def passed(world: World, commit: int) -> bool:
    """Return whether the horizon is ahead of a function that has applied this many commits, so that objects which it
    needs to go on may be deleted."""
    infos = await world.store.list(keys.HORIZONS)
    return bool(infos) and keys.number(infos[-1].key) > commit
