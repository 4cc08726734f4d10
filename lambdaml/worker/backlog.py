"""Keeps the commits that a function knows and has not applied yet, and reads the updates that they apply.

An update that was read before its commit was decided is used as it is. The others are read in the order in which they
will be applied, as far ahead as the window has room (`lambdaml.worker.window`). The update that is applied next always
finds room. A commit whose updates do not fit into the window all at once is applied update by update.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from lambdaml.errors import BadObject
from lambdaml.log import keys
from lambdaml.log.records import DAMAGED, Commit, Entry, Update
from lambdaml.patterns import Exchange
from lambdaml.worker.machine import Total
from lambdaml.worker.shared import Shared
from lambdaml.worker.window import Id, Place


@dataclass(slots=True)
class Pending:
    """A commit that is decided but not applied yet.

    Attributes:
        commit: The commit.
        updates: The known updates of the commit, by worker and sequence number. Not all of them are in memory.
        absent: The number of updates that the commit applies and that are not in memory.
        total: A substitute for its updates, if this function does not add them up itself.
        download_s: The longest time that it took to read one of the updates.
        again: Whether it was applied here before.
    """

    commit: Commit
    updates: dict[Id, Update] = field(default_factory=dict)
    absent: int = 0
    total: Total | None = None
    download_s: float = 0.0
    again: bool = False


class Backlog:
    """The commits that are waiting to be applied, in order."""

    def __init__(self, shared: Shared, exchange: Exchange) -> None:
        self._shared = shared
        self._exchange = exchange
        self._pending: deque[Pending] = deque()
        self._missing: list[tuple[Place, Id]] = []
        self._latest: deque[Commit] = deque()
        self._wanted: Place | None = None  # the replica waits for updates up to here

    def add(self, commit: Commit, known: Mapping[Id, Update], total: Total | None = None) -> None:
        """Note that a commit was decided.

        Args:
            known: Those of its updates that have arrived.
            total: A substitute for its updates, if the replica need not add them up.

        Raises:
            BadObject: If one of them is not the update that the commit applies.
        """
        if total is not None:
            self._pending.append(Pending(commit, dict(known), total=total))
            return
        window, pending = self._shared.window, Pending(commit, dict(known))
        for position, entry in enumerate(commit.applied):
            update, place = known.get((entry.worker, entry.seq)), (commit.commit, position)
            if update is not None and update.fault == DAMAGED:  # its publisher decided, and did not read it back
                window.free(pending.updates.pop(update.id))
                update = None
            if update is not None:
                _demand_same(update, entry)
            if update is not None and update.loaded:
                window.decide(update, place)
            else:
                pending.absent += 1
                heapq.heappush(self._missing, (place, (entry.worker, entry.seq)))
        for entry in commit.refused:
            if (update := known.get((entry.worker, entry.seq))) is not None:
                window.free(update)
        pending.download_s = max((update.download_s for update in known.values()), default=0.0)
        self._pending.append(pending)

    def whole(self, pending: Pending) -> bool:
        """Return whether all updates that a commit applies may be in memory at once."""
        window = self._shared.window
        return len(pending.commit.applied) * window.update_bytes <= window.limit_bytes

    async def next(self) -> Pending:
        """Wait until the first commit can be applied, all at once or update by update, and return it."""
        await self._shared.until(lambda: bool(self._pending))
        first = self._pending[0]
        if first.absent:
            self._want((first.commit.commit, len(first.commit.applied)))
            await self._shared.until(lambda: self._pending[0] is not first or not first.absent or not self.whole(first))
        self._wanted = None
        return first if self._pending[0] is first else await self.next()

    async def add_up(self, commit: Commit) -> None:
        """Apply the first commit, whose updates are not all in memory at once. Each is freed when it has been added."""
        shared, position = self._shared, 0
        replica, compute = shared.replica, shared.world.compute
        await compute(lambda: replica.begin(commit))
        for step in commit.steps:
            for entry in step:
                update = await self._update(position)
                await compute(lambda: replica.add(entry, update))
                shared.window.free(update)
                position += 1
            await compute(lambda: replica.step(step))
        await compute(lambda: replica.end(commit))

    async def _update(self, position: int) -> Update:
        """Wait until an update of the first commit is in memory, and return it."""
        first = self._pending[0]
        entry = first.commit.applied[position]
        key = entry.worker, entry.seq
        if key not in first.updates or not first.updates[key].loaded:
            self._want((first.commit.commit, position))
            await self._shared.until(lambda: key in first.updates and first.updates[key].loaded)
        self._wanted = None
        return first.updates[key]

    def let_go(self) -> None:
        """Free the first commit's updates, which have been added and are no longer needed."""
        for update in self._pending[0].updates.values():
            self._shared.window.free(update)

    def applied(self) -> None:
        """Note that the first commit was applied, and that everything that follows from that is done."""
        self.let_go()
        self._latest.append(self._pending.popleft().commit)
        if len(self._latest) > self._shared.replica.parts.delay:
            self._latest.popleft()
        self._shared.applied += 1
        self._shared.changed()

    def take_back(self, commits: int) -> None:
        """Take back what was applied after so many commits: these updates are read and applied once more."""
        while self._latest and self._latest[-1].commit >= commits:
            commit = self._latest.pop()
            places = [(commit.commit, position) for position in range(len(commit.applied))]
            self._pending.appendleft(Pending(commit, absent=len(places), again=True))
            for place, entry in zip(places, commit.applied, strict=True):
                heapq.heappush(self._missing, (place, (entry.worker, entry.seq)))
            self._shared.applied -= 1
        self._shared.changed()

    async def keep_reading(self) -> None:
        """Read the updates that are applied next and are not in memory, as far as the window has room."""
        shared, window = self._shared, self._shared.window

        def can_read() -> bool:
            return bool(self._missing) and (window.fits() or window.can_fit(self._missing[0][0], self._wanted))

        while True:
            await shared.until(can_read)
            place, key = heapq.heappop(self._missing)
            self.make_room(place)
            window.reserve(key)
            shared.spawn(self._read(place, key))

    def make_room(self, place: Place) -> None:
        """Free updates that are applied at this place or later, so far as another one does not fit. They are read again."""
        if not self._shared.window.fits():
            for later in self._shared.window.make_room(place):
                self._at(later[0]).absent += 1
                heapq.heappush(self._missing, later)

    def _want(self, place: Place) -> None:
        self._wanted = place
        self._shared.changed()

    def _at(self, place: Place) -> Pending:
        return self._pending[place[0] - self._pending[0].commit.commit]

    async def _read(self, place: Place, key: Id) -> None:
        shared, start = self._shared, self._shared.world.now()
        found = await self._exchange.read(*key)
        if found.fault == DAMAGED:
            raise BadObject(f"{keys.update(*key)} is applied by the log, but its object is damaged")
        pending = self._at(place)
        _demand_same(found, pending.commit.applied[place[1]])
        update = pending.updates.setdefault(key, found)
        update.body = found.body
        shared.window.hold(update, shared.replica.held_bytes(found), place)
        pending.absent -= 1
        pending.download_s = max(pending.download_s, shared.world.now() - start)
        shared.changed()


def _demand_same(update: Update, entry: Entry) -> None:
    """Make sure that an update is the one that the log applies, and not one that a function which the horizon has passed
    published again in place of it.

    Raises:
        BadObject: If it is another one.
    """
    if (update.base, update.generation, update.samples) != (entry.base, entry.generation, entry.samples):
        raise BadObject(f"{keys.update(*update.id)} is another update than the one that the log applies")
