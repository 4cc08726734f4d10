"""Deletes the history that a run need not keep, while the run goes on. Whoever writes the log does this.

`lambdaml.log.retention` says what the horizon is, and in which order it is published and objects are deleted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lambdaml.events import HorizonEvent
from lambdaml.log import keys
from lambdaml.log.records import Commit, Update
from lambdaml.log.retention import (
    ROUNDS_UNDER_WAY,
    Horizon,
    Sizes,
    below,
    newest_memories,
    pinned_version,
    spent_travels,
    updates_between,
)
from lambdaml.log.state import KNOWN_FATES
from lambdaml.schedules.cohort import Turns
from lambdaml.storage.backend import batches
from lambdaml.worker.machine import apart
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
        self._marks: deque[Horizon] = deque()  # snapshots, each of which may become the horizon
        self._horizons = [Horizon(0, 0, (0,) * shared.settings.workers)]  # everything before the first is deleted
        self._bases = [-1] * shared.settings.workers  # of the newest update of each worker that was applied here
        self._aim: Horizon | None = None
        self._tried: tuple[Horizon, int] | None = None
        self._known = False
        self._turns = Turns(shared.settings)
        self._own = shared.replica.own
        self._barren: set[int] = set()  # rounds in which all updates of a group were rejected

    def restored(self) -> None:
        """Note the snapshot with which this function begins, which may become the horizon."""
        known = self._shared.known
        if known.commit:
            self._marks.append(Horizon(known.version, known.commit, tuple(known.next_seq)))

    def applied(self, commit: Commit, updates: Iterable[Update]) -> None:
        """Note that a commit was applied, with these of its updates."""
        self._update_bytes = max([self._update_bytes, *[update.size_bytes for update in updates]])
        for entry in commit.entries:
            self._bases[entry.worker] = max(self._bases[entry.worker], entry.base)
        if self._own is not None:
            self._barren.update(turn for turn, _ in self._own.barren(commit))
        self._look()

    def wrote(self, log_state: Mapping[str, Any], size_bytes: int) -> None:
        """Note that a snapshot was written here, and that no other function had written it before."""
        self._snapshot_bytes = max(self._snapshot_bytes, size_bytes)
        self._marks.append(Horizon.of(log_state))
        self._look()

    async def keep(self) -> None:
        """Delete what the bound demands whenever a snapshot may become the horizon, until the run ends."""
        shared, settings = self._shared, self._shared.settings
        while settings.keep_rounds is not None or settings.keep_bytes is not None:
            await shared.until(self._due)
            assert self._aim is not None
            self._tried = self._aim, shared.known.progress
            await self._advance(self._aim)

    def _due(self) -> bool:
        """Return whether to try to move the horizon: to another snapshot, or once more after half an interval between
        snapshots, if a pin or a memory was in the way."""
        shared, half = self._shared, self._shared.settings.updates_per_snapshot / 2
        if self._aim is None or not shared.writes_log or shared.wish is not None or shared.known.stop is not None:
            return False
        if self._tried is None or self._tried[0] != self._aim:
            return True
        return self._aim.commit > self._horizons[-1].commit and shared.known.progress >= self._tried[1] + half

    def _exceeds(self, place: Horizon) -> bool:
        """Return whether the history from there on exceeds the bound, or will before it can be deleted. In bytes, two
        more snapshots may exist by then."""
        shared, settings = self._shared, self._shared.settings
        sizes = Sizes(self._update_bytes, self._snapshot_bytes, settings.updates_per_snapshot)
        updates = shared.known.progress - place.progress
        rounds = updates / settings.workers + ROUNDS_UNDER_WAY
        by_rounds = settings.keep_rounds is not None and rounds > settings.keep_rounds
        by_bytes = settings.keep_bytes is not None and sizes.history(updates + 2 * sizes.every) > settings.keep_bytes
        return by_rounds or by_bytes

    def _look(self) -> None:
        """Find the newest snapshot up to which history is to be deleted, and may be, as far as this function knows."""
        if not self._marks or not self._shared.writes_log or not self._exceeds(self._horizons[-1]):
            return
        wanted = next((mark for mark in self._marks if not self._exceeds(mark)), self._marks[-1])
        allowed = (mark for mark in self._marks if mark.commit <= wanted.commit and self._reached(mark))
        self._aim = max(allowed, key=lambda mark: mark.commit, default=self._aim)
        self._shared.changed()

    async def _advance(self, aim: Horizon) -> None:
        """Move the horizon to this snapshot, or as close to it as pins, memories and the run's target allow."""
        shared, store = self._shared, self._shared.world.store
        if not self._known:  # another function may have published some
            self._horizons = await _published(shared.world) or self._horizons
            self._known = True
        limit = min([*await self._pinned(), *self._stops.unjudged, aim.version])
        memories = await self._memories()
        allowed = [mark for mark in self._marks if mark.version <= limit and self._recoverable(mark, memories)]
        if self._exceeds(self._horizons[-1]) and allowed and allowed[-1].commit > self._horizons[-1].commit:
            await store.create(keys.horizon(allowed[-1].commit), allowed[-1].dump())
            self._horizons.append(allowed[-1])
        await self._delete(memories or [])

    async def _memories(self) -> list[tuple[int, int]] | None:
        """Return the memories in the bucket, each by its worker and the number of updates that it follows; None in a run
        without memory."""
        if not self._shared.replica.parts.remembers:
            return None
        return [keys.update_id(info.key) for info in await self._shared.world.store.list(keys.MEMORY)]

    def _recoverable(self, place: Horizon, memories: Sequence[tuple[int, int]] | None) -> bool:
        """Return whether the memories that may still be needed could be recovered with what is kept from there on. A
        worker that has made all of its updates needs none."""
        shared = self._shared
        if memories is None or shared.settings.takes_turns:  # then they are written with each update
            return True
        newest = newest_memories(memories, shared.settings.workers)
        for worker, decided in enumerate(place.next_seq):
            if shared.schedule.leaves(shared.known, worker, decided):
                newest[worker] = decided + KNOWN_FATES
        return place.leaves(newest)

    def _reached(self, place: Horizon) -> bool:
        """Return whether every worker has computed from this place or a later one, as far as that is called for.

        If the schedule is deterministic, a function that thaws must be certain to notice that it was replaced. Without
        reading the log, it may publish again the updates that were deleted before this place. It notices when it meets
        an update that still exists. Where workers have models of their own, those of the next round rest on updates that are
        not deleted only if all have come that far. If it reads the log, and the bound is one of rounds, a function that has fallen
        behind keeps what it needs until its lease ends. A bound of bytes is kept even so: such a function begins anew.
        """
        shared, known = self._shared, self._shared.known
        if self._own is not None and place.next_seq[0] in self._barren:
            return False  # the models after that round rest on those before
        deterministic = shared.schedule.deterministic or self._own is not None
        if not deterministic and shared.settings.keep_rounds is None:
            return True

        def excused(worker: int) -> bool:
            return shared.leases.silent(worker) or shared.schedule.leaves(known, worker, known.next_seq[worker])

        behind = (worker for worker, base in enumerate(self._bases) if base < place.version)
        return all(not deterministic and excused(worker) for worker in behind)

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
        forgotten = self._unneeded(memories, last)
        sums = [info.key for info in await store.list(keys.REDUCED) if keys.reduced_commit(info.key) < last.commit]
        if apart(self._shared.replica):
            sums += below(last, await store.list(keys.BLOCKS), await store.list(keys.SUMS))
        if self._shared.tuning is not None:
            sums += spent_travels(last, await store.list(keys.TRAVEL))
        measured = updates_between(first, last, keys.extra) if self._shared.settings.extra is not None else ()
        for doomed in (older, updates_between(first, last), measured, sums, forgotten, spent):
            for batch in batches(doomed):
                await store.delete(batch)
        self._horizons = self._horizons[len(passed) - 1 :]
        self._marks = deque(mark for mark in self._marks if mark.commit > last.commit)
        self._shared.world.emit(HorizonEvent(version=last.version))

    def _unneeded(self, memories: Sequence[tuple[int, int]], last: Horizon) -> list[str]:
        """Return the keys of the memories that nobody can need from this place on."""
        if self._shared.settings.takes_turns:
            return [keys.memory(*each) for each in self._turns.superseded(memories, last.next_seq[0])]
        newest = newest_memories(memories, self._shared.settings.workers)
        return [keys.memory(w, seq) for w, seq in memories if seq < min(newest[w], last.next_seq[w])]

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
