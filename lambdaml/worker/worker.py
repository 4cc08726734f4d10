"""A worker: an endless stream of updates, computed wherever its lease is held."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lambdaml.errors import JobFailed, LeaseLost
from lambdaml.events import WarningEvent
from lambdaml.log import keys
from lambdaml.log.records import Update
from lambdaml.training.rejections import describe_update, sampler_of

if TYPE_CHECKING:
    from lambdaml.worker.function import Function

LEAVE_MARGIN = 3.0
"""A function leaves when fewer than this many steps fit into what is left of its lifetime."""


async def work(function: Function, worker: int) -> None:
    """Compute and publish the updates of `worker` until the run ends, the lease is lost, or the function leaves."""
    world, schedule = function.world, function.schedule
    channel = function.channel
    seq = await channel.recover(worker)
    base = -1
    upload_s: float | None = None

    def may_start() -> bool:
        return function.may_start(worker, seq, base) and channel.window.fits(over=not function.backlog)

    while True:
        await function.until(lambda: function.ending or function.head.next_seq[worker] > seq or may_start())
        if function.ending or schedule.leaves(function.queued, worker, seq):
            return
        if function.head.next_seq[worker] > seq:  # another function that held the lease, or holds it now, published it
            if function.head.generation[worker] > function.leases.held.get(worker, 0):
                raise LeaseLost(f"worker {worker} was taken over")
            seq, base = await channel.recover(worker), -1
            continue
        started = world.now()
        channel.window.reserve((worker, seq))
        try:
            update, upload_s = await _publish(function, worker, seq, started, upload_s)
            function.published(update, started, upload_s)
        finally:
            channel.release((worker, seq))
        base = update.base
        seq += 1
        if world.remaining_s() < LEAVE_MARGIN * (world.now() - started) or world.leaving():
            function.leave()


async def _publish(
    function: Function, worker: int, seq: int, started: float, upload_s: float | None
) -> tuple[Update, float]:
    """Compute an update and create its object; returns the one that stands, and how long creating it took."""
    world = function.world
    function.computing += 1
    try:
        update, data, warnings = await world.compute(lambda: _compute(function, worker, seq, started, upload_s))
    finally:
        function.computing -= 1
    for text in warnings:
        world.emit(WarningEvent(text=text))
    sent = world.now()
    standing = await world.store.create(keys.update(worker, seq), data)
    upload_s = world.now() - sent
    if standing is not None:
        update = await function.channel.unpack(standing, worker, seq)
        if update.generation > function.leases.held.get(worker, 0):
            raise LeaseLost(f"worker {worker} was taken over by {update.function}")
    return update, upload_s


def _compute(
    function: Function, worker: int, seq: int, started: float, upload_s: float | None
) -> tuple[Update, bytes, tuple[str, ...]]:
    try:
        gradient = function.replica.gradient(worker, seq)
    except JobFailed as error:
        where = describe_update(worker, seq, sampler_of(function.settings))
        raise error.while_doing(where) from error.__cause__
    version, digest = function.newest or (-1, None)
    update = Update(
        worker=worker,
        seq=seq,
        base=gradient.base,
        generation=function.leases.held.get(worker, 0),
        function=function.name,
        samples=gradient.samples,
        loss=gradient.loss,
        codec=function.settings.codec,
        ready_s=function.world.now() - started,
        compute_s=gradient.compute_s,
        encode_s=gradient.encode_s,
        upload_s=upload_s,
        base_commit=gradient.base_commit,
        digest=digest if version == gradient.base else None,
        stop=function.committer.wish if worker == 0 else None,
        labels=gradient.labels,
        body=gradient.body,
    )
    data = update.pack()
    update.fault = function.replica.check(update)
    return update, data, gradient.warnings
