"""A function: one physical execution (a process, a task, an invocation) that works as one or more workers for a while.

It keeps nothing that the bucket does not hold. Inside, plain coroutines share two pictures of the run: `head`, the
log as far as this function knows it, and `replica`, the state as far as it has been computed. One coroutine advances
the head (deciding commits, or reading them), one applies commits to the replica, one per worker computes updates, one
keeps leases and the trace. They meet at one signal, `changed`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine
from typing import Any, Literal

from lambdaml.errors import BadObject, LeaseLost, ReplicaDiverged, RunFailed, StoreError
from lambdaml.events import OvertakenEvent, TakeoverEvent, WaitingEvent
from lambdaml.log import keys
from lambdaml.log.commits import build_commit
from lambdaml.log.records import Commit, Digest, Update
from lambdaml.log.state import LogState
from lambdaml.patterns.gather import Gather
from lambdaml.settings import Settings
from lambdaml.worker.backlog import Backlog, Pending
from lambdaml.worker.committer import Committer
from lambdaml.worker.leases import Leases
from lambdaml.worker.log_reader import LogReader
from lambdaml.worker.machine import Machine
from lambdaml.worker.restoring import newest_snapshot
from lambdaml.worker.retention import passed
from lambdaml.worker.tracing import Tracer
from lambdaml.worker.window import MAX_UNAPPLIED
from lambdaml.worker.worker import work
from lambdaml.worker.world import Task, World

Outcome = Literal["done", "left"]

REPORT_WAIT_S = 10.0
"""A wait longer than this is reported."""


class Function:
    """Works on a run until it ends or this function must leave.

    Args:
        world: all there is besides memory.
        settings: the run.
        replica: a fresh one, made for this run's job.
        name: unique among all functions that ever work on this run; the writer's token in what it creates.
        assigned: workers to work as; for others this function stands in when their functions fall silent.
        dead: functions that the engine saw die.
    """

    def __init__(
        self,
        world: World,
        settings: Settings,
        replica: Machine,
        name: str,
        assigned: Collection[int],
        dead: Collection[str] = (),
    ) -> None:
        self.world = world
        self.settings = settings
        self.replica = replica
        self.name = name
        self.schedule, self.rule = replica.parts.schedule, replica.parts.rule
        self.head = LogState(settings.workers, settings.steps)
        self.queued = self.head.copy()
        self.tail = 0
        self.changed = world.signal()
        self.leases = Leases(world, name, settings.lease_s, dead)
        self.committer = Committer(self)
        self.channel = Gather(self)
        self.backlog = Backlog(self)
        self.reader = LogReader(self)
        self.tracer = Tracer(world, name)
        self.warm = False
        self.computing = 0
        self._assigned = list(assigned)
        self.digests: dict[int, str] = {}  # by commits taken
        self.newest: tuple[int, Digest] | None = None  # with its version
        self.decided_at = [world.now()] * settings.workers
        self._heard: dict[int, float] = {}
        self._reported: dict[int, float] = {}
        self._workers: dict[int, Task] = {}
        self._tasks: set[Task] = set()
        self._coroutines: set[Coroutine[Any, Any, None]] = set()
        self._awaited = 0
        self._hold = False
        self._published = False
        self._began_at = 0
        self._leaving = False
        self._closed = False
        self._finished = False
        self._failure: BaseException | None = None
        self._progress_at = world.now()

    async def run(self) -> Outcome:
        """Work.

        Returns:
            "done" when the run has ended, "left" when somebody else must go on.

        Raises:
            JobFailed, BadObject, ReplicaDiverged, RunFailed, StoreError: the run cannot go on like this.
        """
        try:
            await self._start()
            await self.until(lambda: self._over or (self._leaving and not self._workers))
            if self._over and (self.committer.active or not self._published):
                await self.committer.finish()
            self._finished = self._over
        except (RunFailed, ReplicaDiverged, BadObject):
            if not await self._overtaken():
                raise
        finally:
            await self._end()
        return "done" if self._over else "left"

    async def _overtaken(self) -> bool:
        """Whether the run's horizon has passed where this function began: it must begin anew, whatever it stumbled over. It
        may have computed again what was deleted, and so have come to another log; one that is at fault stumbles again."""
        overtaken = await passed(self.world, self._began_at)
        if overtaken:
            self._leaving = True
            self.world.emit(OvertakenEvent(function=self.name))
        return overtaken

    @property
    def _over(self) -> bool:
        return self.head.stop is not None and not self.backlog

    @property
    def ending(self) -> bool:
        """Whether workers should compute no more."""
        return self._leaving or self.head.stop is not None

    def may_start(self, worker: int, seq: int, base: int) -> bool:
        """Whether the worker may hand its next update to the compute queue.

        The queue runs in order, so a commit counts as soon as it is queued to be applied. At a checkpoint workers wait
        for the state's digest, which their updates carry.
        """
        return not self._hold and self.schedule.may_start(self.queued, worker, seq, base)

    def leave(self) -> None:
        """Publish what is being computed, then return."""
        self._leaving = True
        self.changed.set()

    async def until(self, condition: Callable[[], bool], timeout_s: float | None = None) -> bool:
        """Wait until the condition holds; with a timeout, no longer than that. Returns whether it holds.

        Raises:
            whatever a task of this function failed with.
        """
        held = await self.world.until(self.changed, lambda: self._failure is not None or condition(), timeout_s)
        if self._failure is not None:
            raise self._failure
        return held

    def spawn(self, task: Coroutine[Any, Any, None]) -> Task:
        """Run a coroutine beside the others; if it fails, the function fails."""

        async def guarded() -> None:
            try:
                await task
            except Exception as error:
                self._failure = self._failure or error
                self.changed.set()
            finally:
                self._coroutines.discard(task)
                self._tasks.discard(spawned)

        self._coroutines.add(task)
        spawned = self.world.spawn(guarded())
        self._tasks.add(spawned)
        return spawned

    async def _start(self) -> None:
        before, after, stored = await self.tracer.hello(workers=self._assigned)
        self.channel.latency_s = self.world.now() - after
        self.leases.set_clock(before, after, stored)
        fresh = await self._restore()
        self.warm = not fresh
        await self.world.gather(*[self.leases.acquire(w, self.head.next_seq[w], fresh=fresh) for w in self._assigned])
        for worker in range(self.settings.workers):
            self.heard(worker)
        self.spawn(self._advance())
        self.spawn(self._apply())
        self.spawn(self.backlog.keep_reading())
        self.spawn(self._keep())
        for duty in self.committer.duties():
            self.spawn(duty)
        for worker in list(self.leases.held):
            self._host(worker)
        self._roles_changed()

    async def _restore(self) -> bool:
        """Load the newest snapshot and find the end of the log; returns whether the run is new."""
        state = await newest_snapshot(self.world, self.replica)
        await self.world.compute(lambda: self.replica.load(state))
        self.head = LogState.load(state.meta["log_state"], self.settings.workers, self.settings.steps)
        self.queued, self._began_at = self.head.copy(), self.head.commit
        entries = await self.world.store.list(
            keys.LOG, after=keys.log(self.head.commit - 1) if self.head.commit else ""
        )
        self.tail = keys.number(entries[-1].key) + 1 if entries else self.head.commit
        return self.tail == 0

    async def _end(self) -> None:
        self._closed = True
        if self._failure is not None:
            self.world.store.patience.give_up()  # what failed is to be heard of now, even if the store is down
        for task in list(self._tasks):
            task.cancel()
        try:
            await self.world.sleep(0)  # let them see it
        finally:
            for coroutine in list(self._coroutines):
                coroutine.close()
        try:
            await self.tracer.close()
            if not self._finished:
                await self.world.gather(*[self.leases.release(worker) for worker in list(self.leases.held)])
        except StoreError:
            if self._failure is None:
                raise

    def _host(self, worker: int) -> None:
        async def hosted() -> None:
            try:
                await work(self, worker)
                await self.until(lambda: self.ending)
            except LeaseLost:
                self.leases.held.pop(worker, None)
            finally:
                self._workers.pop(worker, None)
                self._roles_changed()
                if not self.leases.held:
                    self.leave()

        self._workers[worker] = self.spawn(hosted())

    def _roles_changed(self) -> None:
        """Look for what the others publish, if this function must know it before the log says so."""
        if self._closed:
            return
        decides = (self.schedule.deterministic or self.committer.active) and self.head.stop is None
        others = set(range(self.settings.workers)) - set(self.leases.held) if decides else set()
        self.channel.look_for(others)
        self.changed.set()

    def heard(self, worker: int) -> None:
        """The worker gave a sign of life."""
        self._heard[worker] = self.world.now()

    def waits_for(self, worker: int, since: float) -> bool:
        """Report a wait that is long; whether it did."""
        now, self._awaited = self.world.now(), worker
        if now - since > REPORT_WAIT_S and now - self._reported.get(worker, -REPORT_WAIT_S) > REPORT_WAIT_S:
            self._reported[worker] = now
            self.world.emit(WaitingEvent(worker=worker, seconds=round(now - since, 1)))
            return True
        return False

    def _check_patience(self) -> None:
        """Give up a wait that is hopeless, whoever it is for.

        Raises:
            RunFailed: there was no commit for the run's `patience_s`, nor is anything being computed here.
        """
        now = self.world.now()
        if self.computing or self.head.stop is not None or self.world.store.patience.failing:
            self._progress_at = now
        elif now - self._progress_at > self.settings.patience_s:
            raise RunFailed(
                f"nothing happened for {self.settings.patience_s:.0f} s, waiting for worker {self._awaited}; "
                "resume the run when its cause is mended"
            )

    def published(self, update: Update, started: float, upload_s: float) -> None:
        """One of our workers' updates stands in the bucket."""
        self.warm = self._published = True
        self.leases.alive(update.worker)
        self.tracer.published(update, started, upload_s)
        self.channel.add(update)

    async def _advance(self) -> None:
        """Advance the head: decide the next commit, or read it."""
        while self.head.stop is None:
            await self.until(lambda: len(self.backlog) < MAX_UNAPPLIED and not self.committer.behind)
            if self.schedule.deterministic or (self.committer.active and self.head.commit >= self.tail):
                commit = build_commit(
                    self.head,
                    self.schedule,
                    self.rule,
                    list(self.channel.arrived.values()),
                    max_rejected=self.settings.max_rejected,
                    wish=self.committer.wish,
                )
                if commit is None:
                    seen, wish = self.channel.news, self.committer.wish
                    await self.until(
                        lambda: (
                            (self.channel.news, self.committer.wish) != (seen, wish)
                            or not (self.schedule.deterministic or self.committer.active)
                        )
                    )
                    continue
                if self.schedule.deterministic:
                    self.committer.note(commit)
                else:
                    commit = await self.committer.append(commit)
            else:
                found = await self.reader.next()
                if found is None:
                    continue
                commit = found
            self._take(commit)

    def _take(self, commit: Commit) -> None:
        self.head.advance(commit)
        self._progress_at = self.world.now()
        for entry in commit.entries:
            self.heard(entry.worker)
            self.decided_at[entry.worker] = self._progress_at
        self.backlog.add(commit, self.channel.take(commit))
        if commit.stop:
            self._roles_changed()
        self.changed.set()

    async def _apply(self) -> None:
        """Apply decided commits to the replica, in order."""
        while True:
            pending = await self.backlog.next()
            commit = pending.commit
            before = self.queued.progress
            self.queued.advance(commit)
            checkpoint = self._crosses(before, self.queued.progress)
            self._hold = checkpoint or pending.absent > 0
            self.changed.set()
            start = self.world.now()
            if pending.absent:
                await self.backlog.add_up(commit)
            else:
                await self.world.compute(lambda: self.replica.apply(commit, pending.updates))
            apply_s = self.world.now() - start
            if checkpoint:
                await self._checkpoint()
            self._hold = False
            self._account(pending, apply_s)
            self._compare(commit, pending.updates)
            self.backlog.applied()

    def _account(self, pending: Pending, apply_s: float) -> None:
        channel, commit = self.channel, pending.commit
        for update in pending.updates.values():
            self.committer.retention.applied(update.size_bytes)
        self.tracer.applied(
            commit,
            download_s=pending.download_s,
            apply_s=apply_s,
            gets=channel.gets,
            polls=channel.polls,
            received=channel.bytes_received,
        )
        channel.gets = channel.polls = channel.bytes_received = 0
        if self.committer.active:
            self.tracer.arrived(commit, pending.updates)
            self.committer.tell(commit)

    def _crosses(self, before: int, after: int) -> bool:
        every = self.settings.updates_per_snapshot
        return after // every > before // every

    async def _checkpoint(self) -> None:
        """Note the state's digest; whoever holds worker 0 also writes a snapshot."""
        state = await self.world.compute(self.replica.shared_state)  # nothing changes it while workers hold
        if self.committer.active:
            self.committer.making_bytes = state.size_bytes  # it takes the place of the updates that were applied
        self.backlog.let_go()
        sha256 = await self.world.background(state.digest)
        digest = Digest(state.meta["log_state"]["commit"], sha256)
        self.digests[digest.commits] = sha256
        self.newest = state.version, digest
        if self.committer.active:
            self.committer.digest = digest
            await self.committer.take_snapshot(state, sha256)
        self.committer.making_bytes = 0

    def _compare(self, commit: Commit, updates: dict[tuple[int, int], Update]) -> None:
        """Check the digests that came along against ours.

        Raises:
            ReplicaDiverged: they differ.
        """
        claims = [(update.digest, update.function) for update in updates.values() if update.digest]
        if commit.digest:
            claims.append((commit.digest, commit.function))
        for digest, function in claims:
            if self.digests.get(digest.commits, digest.sha256) != digest.sha256:
                raise ReplicaDiverged(
                    f"{self.name} and {function} disagree about the state after {digest.commits} commits: "
                    "does the job compute from anything but weights, batch and seeds (a clock, a file, a plain attribute), or do "
                    "functions run on different processors?"
                )

    async def _keep(self) -> None:
        """Renew leases, take over workers whose functions fell silent, write the trace, heed the engine."""
        tick_s = min(1.0, self.settings.lease_s / 8)
        while True:
            await self.world.sleep(tick_s)
            self._check_patience()
            if self.world.leaving() or self.world.remaining_s() < 2 * tick_s:
                self.leave()
            try:
                await self.leases.renew()
            except LeaseLost:
                for worker in set(self._workers) - set(self.leases.held):
                    self._workers.pop(worker).cancel()
                self._roles_changed()
            if self.tracer.due():
                await self.tracer.flush()
            if not self.ending:
                await self._take_over()

    async def _take_over(self) -> None:
        vacant = self.world.vacant()
        self.leases.dead.update(vacant.values())
        for worker in range(self.settings.workers):
            finished = worker != 0 and self.schedule.leaves(self.head, worker, self.head.next_seq[worker])
            idle = worker not in self.leases.held and not finished  # somebody must hold worker 0: he writes the log
            if idle and (worker in vacant or self._may_be_free(worker)):
                backup = worker not in self._assigned
                if await self.leases.acquire(worker, self.head.next_seq[worker], backup=backup):
                    self.world.emit(TakeoverEvent(worker=worker, function=self.name))
                    self._host(worker)
                    self._roles_changed()

    def _may_be_free(self, worker: int) -> bool:
        """Whether to ask for the worker's lease: at the moment at which the store's dates have it run out for whom the
        worker is meant for, and so much later for the others that he goes first."""
        lease_s, now = self.settings.lease_s, self.world.now()
        runs_out = self.leases.runs_out.get(worker)
        if worker in self._assigned and runs_out is not None:
            return now >= runs_out
        silent = now - self._heard[worker] > lease_s * (1 + self.world.uniform(0, 0.5))
        return silent and (runs_out is None or now > runs_out + lease_s / 4)
