"""What the coroutines of one function share: two pictures of the run, and what they all need to work on it."""

from __future__ import annotations

from collections.abc import Collection

from lambdaml.log.records import Control, Stop
from lambdaml.log.state import LogState
from lambdaml.settings import Settings
from lambdaml.worker.leases import Leases
from lambdaml.worker.machine import Machine
from lambdaml.worker.task_group import TaskGroup
from lambdaml.worker.tracing import Tracer
from lambdaml.worker.waits import Waits
from lambdaml.worker.window import Id, Window
from lambdaml.worker.world import World


class Shared:
    """The state of one function. Its parts get this object, and know neither the function nor each other's insides.

    Args:
        dead: functions that the engine saw die.

    Attributes:
        world: all there is besides memory.
        settings: the run.
        replica: the state as far as it has been computed. It takes commits from `queued`, in order.
        name: the function's name, which is unique and the writer's token in what it creates.
        schedule, rule: the run's schedule and its staleness rule.
        tasks: the function's coroutines.
        until, spawn: how they wait, and how they start others; see `TaskGroup`.
        changed: to be called when something changed that they may wait for.
        leases: the workers that the function holds.
        waits: what it waits for.
        tracer: what it measured.
        window: what updates take in its memory.
        known: the log as far as this function knows it. It has no tensors and moves on in microseconds.
        queued: the log as far as its commits were handed to the replica.
        applied: how many commits were applied here, with all that follows from that.
        wish: a stop that was asked for and is not in the log yet.
        control: a change that was asked for; the log may hold it by now.
        tail: how many log entries stood when the function began.
        latency_s: what a request takes that finds nothing.
        warm: whether functions are known to have published updates before now.
        published: whether this function has published an update.
        computing: how many updates are being computed.
        hold: whether workers must start nothing, because the state is being looked at.
        leaving: whether the function publishes what is being computed and then returns.
    """

    def __init__(self, world: World, settings: Settings, replica: Machine, name: str, dead: Collection[str]) -> None:
        self.world = world
        self.settings = settings
        self.replica = replica
        self.name = name
        self.schedule, self.rule = replica.parts.schedule, replica.parts.rule
        self.tasks = TaskGroup(world)
        self.until, self.spawn, self.changed = self.tasks.until, self.tasks.spawn, self.tasks.changed.set
        self.leases = Leases(world, name, settings.lease_s, dead)
        self.waits = Waits(world, settings.patience_s)
        self.tracer = Tracer(world, name)
        self.window = Window(replica.update_bytes)
        self.wish: Stop | None = None
        self.control: Control | None = None
        self.latency_s = 0.01
        self.warm = self.published = self.hold = self.leaving = False
        self.computing = 0
        self.start_at(LogState(settings.workers, settings.steps), 0)

    def start_at(self, known: LogState, tail: int) -> None:
        """Begin with a state of the replica that rests on this much of the log, of which `tail` entries stand."""
        self.known, self.queued = known, known.copy()
        self.applied, self.tail = known.commit, tail

    @property
    def unapplied(self) -> int:
        """How many commits are known and not applied yet."""
        return self.known.commit - self.applied

    @property
    def writes_log(self) -> bool:
        """Whether this function writes the log, snapshots and the result: it holds worker 0."""
        return 0 in self.leases.held

    @property
    def ending(self) -> bool:
        """Whether workers should compute no more."""
        return self.leaving or self.known.stop is not None

    def may_start(self, worker: int, seq: int, base: int) -> bool:
        """Whether the worker may hand its next update to the compute queue.

        The queue runs in order, so a commit counts as soon as it is queued to be applied. At a checkpoint workers wait
        for the state's digest, which their updates carry.
        """
        return not self.hold and self.schedule.may_start(self.queued, worker, seq, base)

    def leave(self) -> None:
        """Have the function publish what is being computed, and return."""
        self.leaving = True
        self.changed()

    def release(self, update: Id) -> None:
        """Give back the room in the window that was reserved for an update."""
        full = not self.window.fits()
        self.window.release(update)
        if full:
            self.changed()
