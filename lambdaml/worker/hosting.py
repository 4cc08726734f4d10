"""Hosting: decides which workers this function works as. It takes over workers whose functions fell silent."""

from __future__ import annotations

from collections.abc import Collection

from lambdaml.errors import LeaseLost
from lambdaml.events import TakeoverEvent
from lambdaml.patterns import Exchange
from lambdaml.worker.bases import Bases
from lambdaml.worker.checkpoints import Checkpoints
from lambdaml.worker.leases import Before
from lambdaml.worker.remembering import Remembering
from lambdaml.worker.shared import Shared
from lambdaml.worker.worker import Worker
from lambdaml.worker.world import Task


class Hosting:
    """The workers of one function, each a coroutine for as long as its lease is held.

    Args:
        assigned: The workers that are meant for this function. For others it is a backup.
        before: The knowledge of the function before this one.
    """

    def __init__(
        self,
        shared: Shared,
        exchange: Exchange,
        checkpoints: Checkpoints,
        remembering: Remembering,
        bases: Bases,
        assigned: Collection[int],
        before: Before,
    ) -> None:
        self._shared = shared
        self._exchange = exchange
        self._checkpoints = checkpoints
        self._remembering = remembering
        self._bases = bases
        self._assigned = assigned
        self._before = before
        self._hosted: dict[int, Task] = {}

    def __len__(self) -> int:
        return len(self._hosted)

    @property
    def needless(self) -> bool:
        """Whether this function has no worker, and others are seen to work as all that are meant for it."""
        return not self._hosted and all(map(self._shared.leases.held_elsewhere, self._assigned))

    async def acquire(self, fresh: bool) -> None:
        """Take those leases of the assigned workers that are free.

        Args:
            fresh: Whether the run is new.
        """
        leases, known = self._shared.leases, self._shared.known
        await self._shared.world.gather(*[leases.acquire(w, known.next_seq[w], fresh=fresh) for w in self._assigned])
        leases.begin(known.workers, self._before.silent)
        self._shared.news_from = max(self._shared.tail, self._before.commits)

    def start(self) -> None:
        """Start to work as every worker whose lease is held."""
        for worker in list(self._shared.leases.held):
            self._host(worker)
        self.roles_changed()

    def _host(self, worker: int) -> None:
        shared = self._shared
        self._remembering.expect(worker)
        self._bases.look(worker)

        async def hosted() -> None:
            try:
                parts = self._exchange, self._checkpoints, self._remembering, self._bases
                await Worker(worker, shared, *parts).work()
                await shared.until(lambda: shared.ending)
            except LeaseLost:
                shared.leases.held.pop(worker, None)
            finally:
                self._hosted.pop(worker, None)
                self._remembering.gave_up(worker)
                self._bases.forget(worker)
                self.roles_changed()
                if not shared.leases.held:
                    shared.leave()

        self._hosted[worker] = shared.spawn(hosted())

    def roles_changed(self) -> None:
        """Let the exchange know that the workers held here changed, and whether this function decides commits."""
        shared = self._shared
        if shared.tasks.closed:
            return
        decides = (shared.schedule.deterministic or shared.writes_log) and shared.known.stop is None
        self._exchange.attend(decides)
        shared.changed()

    async def renew(self) -> None:
        """Renew the leases that need it, and end the work of the workers whose leases were lost."""
        try:
            await self._shared.leases.renew()
        except LeaseLost:
            for worker in set(self._hosted) - set(self._shared.leases.held):
                self._hosted.pop(worker).cancel()
            self.roles_changed()

    async def take_over(self) -> None:
        """Work also as workers that the engine wants this function to take over, or whose leases are free."""
        world, leases, known = self._shared.world, self._shared.leases, self._shared.known
        vacant = world.vacant()
        leases.dead.update(vacant.values())
        for worker in range(known.workers):
            finished = worker != 0 and self._shared.schedule.leaves(known, worker, known.next_seq[worker])
            if worker in leases.held or finished:  # some function must hold worker 0: it writes the log
                continue
            assigned = worker in self._assigned
            free = worker in vacant or leases.may_be_free(worker, assigned)
            if free and await leases.acquire(worker, known.next_seq[worker], backup=not assigned):
                world.emit(TakeoverEvent(worker=worker, function=self._shared.name))
                self._host(worker)
                self.roles_changed()
