"""A function: one physical execution (a process, a task, an invocation) that works as one or more workers for a while.

It keeps nothing that the bucket does not hold. Inside, plain coroutines share two log states of the run
(`lambdaml.worker.shared`) and meet at one signal. This file starts and ends them, and has the two coroutines that
everything goes through: one advances the known log state by deciding or reading commits, and one applies commits to the
replica.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from lambdaml.errors import BadObject, ReplicaDiverged, RunFailed, StoreError
from lambdaml.events import LeavingEvent, OvertakenEvent
from lambdaml.log.commits import build_commit
from lambdaml.log.records import Commit
from lambdaml.settings import Settings
from lambdaml.worker.backlog import Backlog, Pending
from lambdaml.worker.bases import Bases
from lambdaml.worker.checkpoints import Checkpoints
from lambdaml.worker.committer import Committer
from lambdaml.worker.hosting import Hosting
from lambdaml.worker.leases import Before
from lambdaml.worker.machine import Folded, Machine
from lambdaml.worker.remembering import Remembering
from lambdaml.worker.restoring import restore
from lambdaml.worker.retention import Retention, passed
from lambdaml.worker.shared import Shared
from lambdaml.worker.stop_watcher import StopWatcher
from lambdaml.worker.window import MAX_UNAPPLIED
from lambdaml.worker.world import World

_NOTHING = Before()

Outcome = Literal["done", "left", "idle"]


class Function:
    """Works on a run until it ends or this function must leave.

    Args:
        world: Everything outside the function's memory: store, clock, compute, randomness, and the engine.
        settings: The run's settings.
        replica: A fresh replica, made for this run's job.
        name: The function's name, unique among all functions that ever work on this run. It is the writer's token in
            the objects that the function creates.
        assigned: The workers that are meant for this function. For the others it is a backup, when their functions fall
            silent.
        dead: The functions that the engine saw die.
        standby: Whether it stays as a backup while others work as all of its workers. Where every second is paid for,
            it leaves.
        before: The knowledge of the function before this one.
    """

    def __init__(
        self,
        world: World,
        settings: Settings,
        replica: Machine,
        name: str,
        assigned: Collection[int],
        dead: Collection[str] = (),
        standby: bool = True,
        before: Before = _NOTHING,
    ) -> None:
        self._shared = shared = Shared(world, settings, replica, name, dead)
        self._assigned = list(assigned)
        self._exchange = replica.parts.pattern.exchange(shared)
        self._backlog = Backlog(shared, self._exchange)
        self._stops = StopWatcher(shared)
        self._retention = Retention(shared, self._stops)
        self._committer = Committer(shared, self._exchange, self._stops, self._retention)
        self._checkpoints = Checkpoints(shared, self._backlog, self._committer)
        self._bases = Bases(shared, self._backlog)
        parts = self._checkpoints, Remembering(shared), self._bases
        self._hosting = Hosting(shared, self._exchange, *parts, self._assigned, before)
        self._standby = standby
        self._began_at = 0
        self._finished = self._needless = False

    async def run(self) -> Outcome:
        """Work on the run until it ends or this function must leave.

        Returns:
            "done" if the run has ended, "left" if another function must go on, "idle" if another one is seen to do so.

        Raises:
            JobFailed, BadObject, ReplicaDiverged, RunFailed, StoreError: If the run cannot go on like this.
        """
        shared = self._shared
        try:
            await self._start()
            await shared.until(lambda: self._over or (shared.leaving and not self._hosting))
            if self._over and (shared.writes_log or not shared.published):
                await self._exchange.lead()
                await self._committer.finish()
            self._finished = self._over
        except Exception as error:
            if not isinstance(error, RunFailed | ReplicaDiverged | BadObject) or not await self._overtaken():
                shared.tracer.failed(error)
                raise
        finally:
            await self._end()
        return "done" if self._over else "idle" if self._needless else "left"

    async def _overtaken(self) -> bool:
        """Return whether the run's horizon has passed the commit at which this function began.

        If so, it must start again, whatever error it met: it may have recomputed deleted updates, and so have arrived
        at a different log. A function that is really at fault meets the error again.
        """
        overtaken = await passed(self._shared.world, self._began_at)
        if overtaken:
            self._shared.leaving = True
            self._shared.world.emit(OvertakenEvent(function=self._shared.name))
        return overtaken

    @property
    def _over(self) -> bool:
        return self._shared.known.stop is not None and not self._shared.unapplied

    async def _start(self) -> None:
        shared, world = self._shared, self._shared.world
        before, after, stored = await shared.tracer.hello(workers=self._assigned)
        shared.latency_s = world.now() - after
        shared.leases.set_clock(before, after, stored)
        fresh = await restore(shared)
        self._began_at = shared.known.commit
        self._retention.restored()
        shared.warm = not fresh
        await self._hosting.acquire(fresh)
        writing = (
            self._committer.keep_log(),
            self._committer.keep_snapshots(),
            self._stops.keep_lead(),
            self._stops.watch(fresh),
        )
        running = self._advance(), self._apply(), self._backlog.keep_reading(), self._keep()
        for duty in (*running, *writing, self._retention.keep()):
            shared.spawn(duty)
        self._hosting.start()

    async def _end(self) -> None:
        shared, leases = self._shared, self._shared.leases
        if shared.tasks.failure is not None:
            self._shared.world.store.patience.give_up()  # the failure must be reported now, even if the store is down
        await shared.tasks.close()
        try:
            await shared.tracer.close()
            if not self._finished:
                shared.world.emit(LeavingEvent(commits=shared.known.commit, silent=leases.silences()))
                await self._shared.world.gather(*[leases.release(worker) for worker in list(leases.held)])
        except StoreError:
            if shared.tasks.failure is None:
                raise

    async def _advance(self) -> None:
        """Advance the known log state: decide the next commit, or read it."""
        shared, exchange = self._shared, self._exchange
        deterministic = shared.schedule.deterministic
        while shared.known.stop is None:
            await shared.until(lambda: shared.unapplied < MAX_UNAPPLIED and not self._committer.behind)
            if shared.writes_log and shared.follows:
                await exchange.lead()
            if not deterministic and not (shared.writes_log and shared.known.commit >= shared.tail):
                if (found := await exchange.next()) is not None:
                    self._take(found)
                continue
            await exchange.await_turn()
            commit = build_commit(
                shared.known,
                shared.schedule,
                shared.rule,
                list(exchange.arrived.values()),
                max_rejected=shared.settings.max_rejected,
                wish=shared.wish,
                control=shared.control,
                tuning=shared.tuning,
            )
            if commit is None:
                seen = exchange.news, shared.wish
                await shared.until(
                    lambda: (exchange.news, shared.wish) != seen or not (deterministic or shared.writes_log)
                )
            elif deterministic:
                self._committer.note(commit)
                self._take(commit)
            else:
                self._take(await self._committer.append(commit))

    def _take(self, commit: Commit) -> None:
        shared = self._shared
        shared.known.advance(commit)
        shared.waits.progress()
        for entry in commit.entries:
            shared.leases.heard(entry.worker, now=commit.commit >= shared.news_from)
        self._backlog.add(commit, self._exchange.take(commit), self._exchange.total(commit))
        if commit.stop:
            self._hosting.roles_changed()
        shared.changed()

    async def _apply(self) -> None:
        """Apply decided commits to the replica, in order."""
        shared = self._shared
        while True:
            pending = await self._backlog.next()
            if not self._bases.may_apply():
                await shared.until(self._bases.may_apply)
                continue
            commit = pending.commit
            before = shared.queued.progress
            shared.queued.advance(commit)
            whole = pending.total is None or pending.total.whole
            checkpoint = whole and shared.settings.snapshot_due(before, shared.queued.progress)
            shared.hold = checkpoint or pending.absent > 0
            shared.changed()
            start = self._shared.world.now()
            if pending.total is not None:
                await pending.total.apply(shared.world, shared.replica, commit)
            elif pending.absent:
                await self._backlog.add_up(commit)
            else:
                await shared.world.compute(lambda: shared.replica.apply(commit, pending.updates))
            apply_s = self._shared.world.now() - start
            shared.follows = shared.follows or isinstance(pending.total, Folded)
            await self._exchange.applied(commit)
            if checkpoint and not shared.follows:
                await self._checkpoints.take()
            shared.hold = False
            self._account(pending, apply_s)
            self._checkpoints.compare(commit, pending.updates.values())
            self._backlog.applied()

    def _account(self, pending: Pending, apply_s: float) -> None:
        if pending.again:
            return
        self._retention.applied(pending.commit, pending.updates.values())
        decided = [(entry.worker, entry.seq) for entry in pending.commit.entries]
        self._shared.tracer.applied(decided, pending.download_s, apply_s, self._exchange.counted())
        if self._shared.writes_log:
            self._shared.tracer.arrived(pending.commit, pending.updates)
            self._committer.tell(pending.commit)

    async def _keep(self) -> None:
        """Renew leases, take over workers whose functions fell silent, write the trace, and heed the engine."""
        shared, world = self._shared, self._shared.world
        tick_s = min(1.0, shared.settings.lease_s / 8)
        while True:
            await world.sleep(tick_s)
            shared.waits.check(busy=shared.computing > 0 or shared.known.stop is not None)
            if world.leaving() or world.remaining_s() < 2 * tick_s:
                shared.leave()
            await self._hosting.renew()
            if shared.tracer.due():
                await shared.tracer.flush()
            if not shared.ending:
                await self._hosting.take_over()
            if not self._standby and self._hosting.needless:
                self._needless = True
                shared.leave()
