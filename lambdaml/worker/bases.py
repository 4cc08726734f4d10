"""Sees to it that updates are computed from the versions that the schedule names, where it has a delay.

Under `pipeline:D` update r is computed after exactly max(0, r - D) commits. So the replica waits: a commit is applied when
all workers that are held here have computed what they compute before it. A function that takes over a worker may be ahead of
what that worker's next update is computed from, by at most D commits. Then its replica goes back: it loads the state
anew, and applies these commits once more.
"""

from __future__ import annotations

from lambdaml.log import keys
from lambdaml.log.state import LogState
from lambdaml.worker.backlog import Backlog
from lambdaml.worker.poll_timer import FLOATS, Backoff
from lambdaml.worker.restoring import whole_state_at
from lambdaml.worker.room import Exclusive
from lambdaml.worker.shared import Shared


class Bases:
    """The next updates of the workers that are held here. In a run without a delay it does nothing."""

    def __init__(self, shared: Shared, backlog: Backlog) -> None:
        self._shared = shared
        self._backlog = backlog
        self._delay = shared.replica.parts.delay
        self._next: dict[int, int | None] = {}  # by worker, None while its next update is not known
        self._turn = Exclusive(shared.tasks)

    def look(self, worker: int) -> None:
        """Note that this function works as a worker, and does not know its next update yet."""
        self._next[worker] = None

    def forget(self, worker: int) -> None:
        """Note that this function no longer works as a worker."""
        self._next.pop(worker, None)
        self._shared.changed()

    def computed(self, worker: int, seq: int) -> None:
        """Note that an update was computed."""
        self._next[worker] = seq + 1
        if self._delay:
            self._shared.changed()

    async def found(self, worker: int, seq: int) -> None:
        """Note which update a worker computes next, and wait until the replica is not ahead of what it is computed from.

        Raises:
            RunFailed: If objects that this needs were deleted.
        """
        shared, base = self._shared, max(0, seq - self._delay)
        self._next[worker] = seq
        shared.changed()
        if self._delay and shared.queued.commit > base and not self._idle(worker, seq):
            async with self._turn:
                if shared.queued.commit > base:
                    await self._go_back(base)

    def may_apply(self) -> bool:
        """Return whether the next commit may be applied.

        While it is not known which update a worker computes next, the log says which it is at least. If updates need
        the room, the commit is applied all the same.
        """
        shared = self._shared
        if not self._delay or shared.known.stop is not None:
            return True
        last = shared.queued.commit + self._delay
        for worker, known in self._next.items():
            seq = shared.known.next_seq[worker] if known is None else known
            if seq <= last and not self._idle(worker, seq) and (known is not None or shared.window.fits()):
                return False
        return True

    def fits(self) -> bool:
        """Return whether there is room to compute an update.

        Where commits wait for it, the updates that these apply make room, and are read again.
        """
        shared = self._shared
        if shared.window.fits(over=not shared.unapplied):
            return True
        idle = shared.applied == shared.queued.commit
        return self._delay > 0 and idle and shared.unapplied > 0 and shared.window.fits_alone()

    def make_room(self) -> None:
        """Make that room, right before it is taken."""
        if self._delay and self._shared.applied == self._shared.queued.commit:
            self._backlog.make_room((self._shared.applied, 0))

    def _idle(self, worker: int, seq: int) -> bool:
        return self._shared.schedule.leaves(self._shared.queued, worker, seq)

    async def _go_back(self, commits: int) -> None:
        """Bring the replica back to its state after so many commits. No commit is applied meanwhile."""
        shared, world = self._shared, self._shared.world
        await shared.until(lambda: shared.ending or shared.applied == shared.queued.commit)
        backoff = Backoff(FLOATS, shared.latency_s)
        while commits and not shared.ending and await world.store.head(keys.log(commits - 1)) is None:
            await world.sleep(backoff.next_s(world.uniform(0, 1)))
        if shared.ending:
            return
        state = await whole_state_at(shared, commits)
        settings = shared.settings
        shared.queued = LogState.load(state.meta["log_state"], settings.workers, settings.steps)
        self._backlog.take_back(commits)
        await world.compute(lambda: shared.replica.load(state))
