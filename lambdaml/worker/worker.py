"""A worker: an endless stream of updates, computed by the function that holds its lease."""

from __future__ import annotations

from lambdaml.errors import JobFailed, LeaseLost
from lambdaml.events import WarningEvent
from lambdaml.log import keys
from lambdaml.log.records import Update
from lambdaml.patterns import Exchange
from lambdaml.training.rejections import describe_update
from lambdaml.training.sampling import sampler_of
from lambdaml.worker.blocks import put_blocks
from lambdaml.worker.checking import checked_update
from lambdaml.worker.checkpoints import Checkpoints
from lambdaml.worker.machine import apart, conclude
from lambdaml.worker.remembering import Remembering
from lambdaml.worker.shared import Shared

LEAVE_MARGIN = 3.0
"""A function leaves when fewer than this many steps fit into the rest of its lifetime."""


class Worker:
    """One worker, for as long as this function holds its lease.

    Args:
        number: The worker's number.
    """

    def __init__(
        self, number: int, shared: Shared, exchange: Exchange, checkpoints: Checkpoints, remembering: Remembering
    ) -> None:
        self._number = number
        self._shared = shared
        self._exchange = exchange
        self._checkpoints = checkpoints
        self._remembering = remembering
        self._upload_s: float | None = None  # the time that its latest put took

    async def work(self) -> None:
        """Compute and publish the worker's updates until the run ends, the lease is lost, or the function leaves."""
        shared, world, worker = self._shared, self._shared.world, self._number
        seq, base = await self._recover(), -1

        def may_start() -> bool:
            return shared.may_start(worker, seq, base) and shared.window.fits(over=not shared.unapplied)

        while True:
            await shared.until(lambda: shared.ending or shared.known.next_seq[worker] > seq or may_start())
            if shared.ending or shared.schedule.leaves(shared.queued, worker, seq):
                await self._remembering.leave(worker, seq)
                return
            if (
                shared.known.next_seq[worker] > seq
            ):  # another function that held the lease, or holds it now, published it
                if shared.known.generation[worker] > shared.leases.held.get(worker, 0):
                    raise LeaseLost(f"worker {worker} was taken over")
                seq, base = await self._recover(), -1
                continue
            started = world.now()
            shared.window.reserve((worker, seq))
            try:
                update = await self._publish(seq, started)
            finally:
                shared.release((worker, seq))
            base = update.base
            seq += 1
            await self._remembering.published(update)
            if world.remaining_s() < LEAVE_MARGIN * (world.now() - started) or world.leaving():
                shared.leave()

    async def _recover(self) -> int:
        """Find what earlier functions left of this worker: the number of the next update, and the memory before it."""
        try:
            seq = await self._exchange.recover(self._number)
        except BaseException:
            self._remembering.gave_up(self._number)
            raise
        await self._remembering.restore(self._number, seq)
        return seq

    async def _publish(self, seq: int, started: float) -> Update:
        """Compute an update, create its objects, and return the update that the bucket then holds."""
        if not apart(self._shared.replica):
            return await self._publish_now(seq, started)
        async with self._shared.vector:
            return await self._publish_now(seq, started)

    async def _publish_now(self, seq: int, started: float) -> Update:
        shared, world, worker = self._shared, self._shared.world, self._number
        shared.computing += 1
        try:
            update, data, warnings = await world.compute(lambda: self._compute(seq, started))
        finally:
            shared.computing -= 1
        for text in warnings:
            world.emit(WarningEvent(text=text))
        sent = world.now()
        if update.apart is not None:
            await put_blocks(shared, update)
        standing = await world.store.create(keys.update(worker, seq), data)
        self._upload_s = world.now() - sent
        forgets = False
        if standing is not None:
            made, update = update, await checked_update(shared, standing, worker, seq)
            if update.generation > shared.leases.held.get(worker, 0):
                raise LeaseLost(f"worker {worker} was taken over by {update.function}")
            forgets = self._remembering.differs(update, made)
        shared.warm = shared.published = True
        shared.leases.alive(worker)
        shared.tracer.published(update, started, self._upload_s)
        self._exchange.add(update)  # first, since the memory may have to wait for its fate
        if forgets:
            await self._remembering.restore(worker, seq + 1)
        return update

    def _compute(self, seq: int, started: float) -> tuple[Update, bytes, tuple[str, ...]]:
        """Compute an update and check it. Return it with its bytes and the job's warnings."""
        shared, worker = self._shared, self._number
        try:
            assignment = shared.replica.assign(worker, seq)
            found = shared.replica.compute(assignment)
        except JobFailed as error:
            where = describe_update(worker, seq, sampler_of(shared.settings))
            raise error.while_doing(where) from error.__cause__
        update = found.update(
            assignment,
            shared.settings.codec,
            shared.leases.held.get(worker, 0),
            shared.name,
            ready_s=shared.world.now() - started,
            upload_s=self._upload_s,
            digest=self._checkpoints.digest_at(found.base),
            stop=shared.wish if worker == 0 else None,
            control=shared.control if worker == 0 else None,
        )
        return update, conclude(shared.replica, update), found.warnings
