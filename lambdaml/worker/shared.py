"""The state that the coroutines of one function share: two log states of the run, and the tools to work on it."""

from __future__ import annotations

from collections.abc import Collection

from lambdaml.log.records import Control, Stop
from lambdaml.log.state import LogState
from lambdaml.settings import Settings
from lambdaml.worker.leases import Leases
from lambdaml.worker.machine import Machine
from lambdaml.worker.room import Exclusive, Room
from lambdaml.worker.task_group import TaskGroup
from lambdaml.worker.tracing import Tracer
from lambdaml.worker.waits import Waits
from lambdaml.worker.window import Id, Window
from lambdaml.worker.world import World


class Shared:
    """The state of one function. Its parts get this object, and know neither the function nor each other's insides.

    Args:
        dead: The functions that the engine saw die.

    Attributes:
        world: Everything outside the function's memory: store, clock, compute, randomness, and the engine.
        settings: The run's settings.
        replica: The state as far as it has been computed. It takes commits from `queued`, in order.
        name: The function's name, which is unique, and the writer's token in the objects that it creates.
        schedule, rule: The run's schedule and its staleness rule.
        tuning: The run's tuning; None if it is not tuned.
        tasks: The function's coroutines.
        until, spawn: The calls by which they wait and start others; see `TaskGroup`.
        changed: The call to make after a change of anything that they may wait for.
        leases: The leases of the workers that the function holds.
        waits: The waits of the function.
        tracer: The trace of what the function measured.
        window: The account of the memory that updates take.
        room: The account of the memory that slices take which are objects of their own.
        vector: The turn of those who need the machine's vector for longer than one computation.
        known: The log state as far as this function knows the log. It has no tensors and advances in microseconds.
        queued: The log state after the commits that were handed to the replica.
        applied: The number of commits that were applied here, with all that follows from that.
        wish: A stop that was asked for and is not in the log yet.
        control: A change that was asked for; the log may hold it by now.
        tail: The number of log entries that existed when the function began.
        news_from: The first commit that tells that the workers in it live; earlier ones were known before.
        latency_s: The time that a request takes if it finds nothing.
        warm: Whether functions are known to have published updates before now.
        published: Whether this function has published an update.
        computing: The number of updates that are being computed.
        follows: Whether the replica has a model that another function made, and cannot take a step itself.
        hold: Whether workers must start nothing, because the state is being read.
        leaving: Whether the function publishes the updates that are being computed and then returns.
    """

    def __init__(self, world: World, settings: Settings, replica: Machine, name: str, dead: Collection[str]) -> None:
        self.world = world
        self.settings = settings
        self.replica = replica
        self.name = name
        self.schedule, self.rule = replica.parts.schedule, replica.parts.rule
        self.tuning = replica.travels.tuning if replica.travels is not None else None
        self.tasks = TaskGroup(world)
        self.until, self.spawn, self.changed = self.tasks.until, self.tasks.spawn, self.tasks.changed.set
        self.leases = Leases(world, name, settings.lease_s, dead)
        self.waits = Waits(world, settings.patience_s)
        self.tracer = Tracer(world, name)
        self.window = Window(replica.update_bytes)
        self.room, self.vector = Room(self.tasks), Exclusive(self.tasks)
        self.wish: Stop | None = None
        self.control: Control | None = None
        self.latency_s = 0.01
        self.warm = self.published = self.follows = self.hold = self.leaving = False
        self.computing = 0
        self.start_at(LogState(settings.workers, settings.steps), 0)

    def start_at(self, known: LogState, tail: int) -> None:
        """Begin with a replica whose state rests on the log state `known`, when the log has `tail` entries."""
        self.known, self.queued = known, known.copy()
        self.applied, self.tail, self.news_from = known.commit, tail, tail

    @property
    def unapplied(self) -> int:
        """The number of commits that are known and not applied yet."""
        return self.known.commit - self.applied

    @property
    def writes_log(self) -> bool:
        """Whether this function writes the log, snapshots and the result, because it holds worker 0."""
        return 0 in self.leases.held

    @property
    def others(self) -> set[int]:
        """The workers that this function does not hold."""
        return set(range(self.known.workers)) - set(self.leases.held)

    @property
    def ending(self) -> bool:
        """Whether workers should stop computing."""
        return self.leaving or self.known.stop is not None

    def may_start(self, worker: int, seq: int, base: int) -> bool:
        """Return whether the worker may hand its next update to the compute queue.

        The queue runs in order, so a commit counts as soon as it is queued to be applied. At a checkpoint workers wait
        for the state's digest, which their updates carry.
        """
        return not self.hold and self.schedule.may_start(self.queued, worker, seq, base)

    def leave(self) -> None:
        """Make the function publish the updates that are being computed, and then return."""
        self.leaving = True
        self.changed()

    def release(self, update: Id) -> None:
        """Give back the room that was reserved for an update in the window."""
        full = not self.window.fits()
        self.window.release(update)
        if full:
            self.changed()
