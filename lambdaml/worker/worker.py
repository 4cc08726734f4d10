"""A worker: an endless stream of updates, computed by the function that holds its lease."""

from __future__ import annotations

from lambdaml.errors import JobFailed, LeaseLost
from lambdaml.events import WarningEvent
from lambdaml.log import keys
from lambdaml.log.records import Update
from lambdaml.patterns import Exchange
from lambdaml.training.rejections import describe_update
from lambdaml.worker.barrier import Barrier
from lambdaml.worker.bases import Bases
from lambdaml.worker.blocks import put_blocks
from lambdaml.worker.checking import checked_update
from lambdaml.worker.checkpoints import Checkpoints
from lambdaml.worker.machine import apart, conclude
from lambdaml.worker.remembering import Remembering
from lambdaml.worker.shared import Shared
from lambdaml.worker.slots import compute_slot
from lambdaml.worker.travelling import Travelling

LEAVE_MARGIN = 3.0
"""A function leaves when fewer than this many steps fit into the rest of its lifetime."""


class Worker:
    """One worker, for as long as this function holds its lease.

    Args:
        number: The worker's number.
    """

    def __init__(
        self,
        number: int,
        shared: Shared,
        exchange: Exchange,
        checkpoints: Checkpoints,
        remembering: Remembering,
        bases: Bases,
    ) -> None:
        self._number = number
        self._shared = shared
        self._exchange = exchange
        self._checkpoints = checkpoints
        self._remembering = remembering
        self._bases = bases
        self._barrier, self._travelling = Barrier(shared, number), Travelling(shared, number)
        self._upload_s: float | None = None  # the time that its latest put took
        self._extra = b""  # what was measured beside the newest update, until that is created
        self._sending = self._void = False
        self._lost: LeaseLost | None = None

    async def work(self) -> None:
        """Compute and publish the worker's updates until the run ends, the lease is lost, or the function leaves."""
        shared, world, worker = self._shared, self._shared.world, self._number
        seq, base = await self._recover(), -1

        def may_start() -> bool:
            return shared.may_start(worker, seq, base) and self._exchange.ready(worker, seq) and self._bases.fits()

        while True:
            await shared.until(
                lambda: shared.ending or bool(self._lost) or shared.known.next_seq[worker] > seq or may_start()
            )
            if self._lost or shared.ending or shared.schedule.leaves(shared.queued, worker, seq):
                await self._sent()
                await self._remembering.leave(worker, seq)
                return
            if (
                shared.known.next_seq[worker] > seq
            ):  # another function that held the lease, or holds it now, published it
                if shared.known.generation[worker] > shared.leases.held.get(worker, 0):
                    raise LeaseLost(f"worker {worker} was taken over")
                seq, base = await self._recover(), -1
                continue
            if await self._barrier.held(seq) or not may_start():
                continue
            started = world.now()
            self._bases.make_room()
            shared.window.reserve((worker, seq))
            publish = self._publish_beside if shared.replica.parts.delay else self._publish
            if (update := await publish(seq, started)) is None:
                seq, base = await self._recover(seq), -1
                continue
            base = update.base
            seq += 1
            if self._remembering.due(update):
                if not await self._sent():
                    seq, base = await self._recover(seq), -1
                    continue
                await self._remembering.write(worker, seq)
            if world.remaining_s() < LEAVE_MARGIN * (world.now() - started) or world.leaving():
                shared.leave()

    async def _recover(self, least: int = 0) -> int:
        """Find what earlier functions left of this worker: the number of the next update, which is `least` or more, and the
        memory before it."""
        await self._sent()
        self._bases.look(self._number)
        try:
            seq = max(least, await self._exchange.recover(self._number))
            await self._bases.found(self._number, seq)
        except BaseException:
            self._remembering.gave_up(self._number)
            raise
        await self._remembering.restore(self._number, seq)
        return seq

    async def _publish(self, seq: int, started: float) -> Update:
        """Compute an update, create its objects, and return the update that the bucket then holds."""
        try:
            if not apart(self._shared.replica):
                return await self._publish_now(seq, started)
            async with self._shared.vector:
                return await self._publish_now(seq, started)
        finally:
            self._shared.release((self._number, seq))

    async def _publish_now(self, seq: int, started: float) -> Update:
        update, forgets = await self._create(*await self._make(seq, started), started)
        if forgets:
            self._remembering.gave_up(self._number)
            await self._remembering.restore(self._number, seq + 1)
        return update

    async def _publish_beside(self, seq: int, started: float) -> Update | None:
        """Compute an update, while the one before is created, and then begin to create its object.

        Returns:
            The update; None if the one before that the bucket holds is not the one which this worker remembers, so that this
            one must be computed again.
        """
        shared, begun = self._shared, False
        try:
            update, data = await self._make(seq, started)
            self._bases.computed(self._number, seq)
            if not await self._sent():
                return None
            self._sending = begun = True
        finally:
            if not begun:
                shared.release((self._number, seq))
        shared.spawn(self._send(update, data, started))
        return update

    async def _send(self, update: Update, data: bytes, started: float) -> None:
        try:
            _, self._void = await self._create(update, data, started)
        except LeaseLost as error:
            self._lost = error
        finally:
            self._sending = False
            self._shared.release(update.id)
            self._shared.changed()

    async def _sent(self) -> bool:
        """Wait until the update that is being created exists. Return False if what this worker remembers of it is void.

        Raises:
            LeaseLost: If another function works as this worker.
        """
        await self._shared.until(lambda: not self._sending)
        if self._lost is not None:
            raise self._lost
        void, self._void = self._void, False
        if void:
            self._remembering.gave_up(self._number)
        return not void

    async def _make(self, seq: int, started: float) -> tuple[Update, bytes]:
        shared, world = self._shared, self._shared.world
        await self._remembering.begin_turn(self._number, seq)
        await self._travelling.arrive(seq)
        shared.computing += 1
        try:
            update, data, warnings = await world.compute(lambda: self._compute(seq, started))
        finally:
            shared.computing -= 1
        for text in warnings:
            world.emit(WarningEvent(text=text))
        return update, data

    async def _create(self, update: Update, data: bytes, started: float) -> tuple[Update, bool]:
        """Create the objects of an update. Return the update that the bucket then holds, and whether what this worker
        remembers is void, since that is another one.

        Raises:
            LeaseLost: If another function works as this worker.
        """
        shared, world, (worker, seq) = self._shared, self._shared.world, update.id
        announced = await self._barrier.announce(update, self._upload_s)
        sent, forgets = world.now(), False
        await self._remembering.end_turn(update)
        if update.apart is not None:
            await put_blocks(shared, update)
        if self._extra:
            await world.store.create(keys.extra(worker, seq), self._extra)
            self._extra = b""
        await self._travelling.leave(update)
        standing = await world.store.create(keys.update(worker, seq), data)
        self._upload_s = world.now() - sent
        if announced:
            await self._barrier.withdraw(update)
        if standing is not None:
            made, update = update, await checked_update(shared, standing, worker, seq)
            if update.generation > shared.leases.held.get(worker, 0):
                raise LeaseLost(f"worker {worker} was taken over by {update.function}")
            forgets = self._remembering.differs(update, made)
        shared.warm = shared.published = True
        shared.leases.alive(worker)
        shared.tracer.published(update, started, self._upload_s)
        self._exchange.add(update)  # first, since the memory may have to wait for its fate
        return update, forgets

    def _compute(self, seq: int, started: float) -> tuple[Update, bytes, tuple[str, ...]]:
        """Compute an update and check it. Return it with its bytes and the job's warnings.

        Raises:
            LeaseLost: If another function works as this worker.
        """
        shared, worker = self._shared, self._number
        try:
            judged = self._travelling.judge(seq)
            assignment = shared.replica.assign(worker, seq)
            found = compute_slot(shared.replica, shared.settings, assignment)
        except JobFailed as error:
            where = describe_update(worker, seq, shared.replica.sampler)
            raise error.while_doing(where, (worker, seq)) from error.__cause__
        self._extra = found.extra
        generation = shared.leases.held.get(worker)
        if generation is None:  # every replica would reject the update, in place of the other function's
            raise LeaseLost(f"worker {worker} was taken over while its update was computed")
        update = found.update(
            assignment,
            shared.settings.codec,
            generation,
            shared.name,
            ready_s=shared.world.now() - started,
            upload_s=self._upload_s,
            digest=self._checkpoints.digest_at(found.base),
            stop=shared.wish if worker == 0 else None,
            control=shared.control if worker == 0 else None,
            judged=judged,
        )
        self._travelling.pack(update)
        return update, conclude(shared.replica, update), found.warnings
