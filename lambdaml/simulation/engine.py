"""Runs the real protocol in the virtual world: functions start, die, leave and start again, as under a real engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

from lambdaml.codecs import Layout
from lambdaml.engines.supervise import DIED, DONE, FAILED, LEFT
from lambdaml.errors import LambdaMLError, StoreUnavailable
from lambdaml.events import EndedEvent, Event, StartedEvent
from lambdaml.log import keys
from lambdaml.log.reader import RunReader
from lambdaml.log.records import Commit
from lambdaml.settings import Settings
from lambdaml.simulation.channel import Channel
from lambdaml.simulation.kernel import Kernel
from lambdaml.simulation.platform import DETECT_S, Platform
from lambdaml.simulation.regions import Placement
from lambdaml.simulation.stragglers import Even, Stragglers
from lambdaml.simulation.stub_replica import Costs, StubReplica
from lambdaml.simulation.virtual import Bucket, FaultInjector, VirtualWorld
from lambdaml.storage import MemoryStore
from lambdaml.training.history_room import extra_bytes
from lambdaml.worker.function import Function
from lambdaml.worker.machine import Machine, apart


@dataclass(slots=True)
class Life:
    """One function from its start to its end.

    Attributes:
        name: The function's name, which no other life has.
        index: The function's number, from 0; the function that replaces it has the same.
        world: The function's world.
        machine: The function's replica.
        started_s: The virtual second at which the engine launched it.
        ended_s: The virtual second at which it ended, or None while it lives.
        outcome: `done`, `left`, `killed`, or the error's text; empty while it lives.
    """

    name: str
    index: int
    world: VirtualWorld
    machine: Machine
    started_s: float
    ended_s: float | None = None
    outcome: str = ""


@dataclass(slots=True)
class FaultPlan:
    """The faults that a fault schedule plans for one life. Times are seconds from its start.

    Attributes:
        last_turn: The number of turns of its tasks after which the function is killed; None if it is not.
        freeze_s: The moment at which it freezes and the seconds that it stays frozen; None if it never freezes.
        skew_s: The seconds that its clock is ahead.
        drift: The seconds that its clock gains in each second.
        lifetime_s: The lifetime, if it is shorter than the platform's.
        dead: The functions that it is told are dead, rightly or not.
        restart_s: The seconds from its end until the engine replaces it.
    """

    last_turn: int | None = None
    freeze_s: tuple[float, float] | None = None
    skew_s: float = 0.0
    drift: float = 0.0
    lifetime_s: float = float("inf")
    dead: tuple[str, ...] = ()
    restart_s: float = DETECT_S


@dataclass(slots=True)
class VirtualRun:
    """A run in the virtual world.

    Attributes:
        settings: The run's settings.
        functions: The number of functions.
        costs: The seconds of compute and the bytes that its work takes.
        channel: The model of the store.
        platform: The model of the platform that the functions run on.
        stragglers: The model of how a function's speed varies.
        seed: The seed of everything that is drawn.
        placement: The regions of the bucket and of the functions.
        injector: Decides which fault each request meets; by default none meets any.
        fault_plan: Returns the faults of the life of this name and index.
        bad: Returns whether every replica must reject the update of this worker and sequence number.
        machine: Makes a function's replica; by default one without tensors.
        start: The bytes of the first snapshot; by default that of a replica without tensors.
        trace: Is called with each event and the virtual second at which it happened.
        kernel: The virtual clock, and the tasks that run on it.
        bucket: The run's store.
        lives: The functions launched so far, in the order of their launch.
        error: The first error that a function failed with and that a user may see.
        failure: An error that no user should ever see.
    """

    settings: Settings
    functions: int
    costs: Costs
    channel: Channel
    platform: Platform
    stragglers: Stragglers = field(default_factory=Even)
    seed: int = 0
    placement: Placement = field(default_factory=Placement)
    injector: FaultInjector | None = None
    fault_plan: Callable[[VirtualRun, str, int], FaultPlan] = lambda virtual, name, index: FaultPlan()
    bad: Callable[[int, int], bool] = lambda worker, seq: False
    machine: Callable[[VirtualRun, VirtualWorld], Machine] = lambda virtual, world: StubReplica(
        virtual.settings, virtual.costs, world.charge, world.now, virtual.bad
    )
    start: bytes | None = None
    trace: Callable[[float, Event], None] = lambda now, event: None
    kernel: Kernel = field(init=False)
    bucket: Bucket = field(init=False)
    lives: list[Life] = field(default_factory=list)
    error: LambdaMLError | None = None
    failure: BaseException | None = None
    _open: int = 0

    def __post_init__(self) -> None:
        self.kernel, first = Kernel(self.seed), StubReplica(self.settings, self.costs)
        payloads = {keys.UPDATES: self.costs.update_bytes, keys.SNAPSHOTS: self.costs.snapshot_bytes}
        dense_bytes = max(4 * self.settings.parameters // first.parts.algorithm.fragments, self.costs.update_bytes)
        slices = max(1, first.parts.slices)
        payloads |= {keys.MEMORY: self.costs.memory_bytes, keys.REDUCED: dense_bytes // slices}
        payloads[keys.EXTRA_OBJECTS] = extra_bytes(self.settings, Layout.flat(self.settings.parameters))
        if apart(first):
            payloads |= {keys.BLOCKS: self.costs.update_bytes // slices, keys.SUMS: payloads[keys.REDUCED]}
            payloads |= {keys.UPDATES: 0, keys.REDUCED: 0}
        self.bucket = Bucket(self.kernel, self.channel, payloads, self.injector, 1 / slices)
        self.bucket.put(keys.RUN, self.settings.dump())
        self.bucket.put(keys.snapshot(0), self.start or first.state().dump())

    def run(self, until_s: float = float("inf")) -> bool:
        """Run until all functions have ended or the clock shows `until_s`, and return whether the run has ended.

        Raises:
            LambdaMLError: If a function failed with it.
        """
        self._open = self.functions
        for index in range(self.functions):
            delay_s = self.platform.start_delay_s(index)
            self.kernel.at(delay_s, lambda index=index: self.launch(index))  # type: ignore[misc]
        self.kernel.run(until_s, lambda: self._open == 0)
        if self.failure is not None:
            raise self.failure
        if self.error is not None:
            raise self.error
        return self._open == 0

    def launch(self, index: int, spare: bool = False) -> None:
        """Start a function. A spare one works beside the function of the same index, and is not replaced."""
        name = f"f{index}.{sum(life.index == index for life in self.lives)}{'s' if spare else ''}"
        plan = self.fault_plan(self, name, index)
        group = self.kernel.group(name)
        group.last_turn = plan.last_turn
        lifetime_s = min(plan.lifetime_s, self.platform.lifetime_s)
        uniform, speed = group.random.random, self.platform.speed()
        world = VirtualWorld(
            group,
            self.bucket,
            bytes_per_s=self.platform.bandwidth_bytes_per_s,
            link=self.placement.link(index),
            slowness=lambda: self.stragglers.factor(index, uniform) / speed,
            lifetime_s=lifetime_s,
            patience_s=self.settings.patience_s,
            skew_s=plan.skew_s,
            drift=plan.drift,
            emit=lambda event: self.trace(self.kernel.now, event),
        )
        life = Life(name, index, world, self.machine(self, world), self.kernel.now)
        self.lives.append(life)
        if plan.freeze_s is not None:
            at_s, for_s = plan.freeze_s
            self.kernel.at(self.kernel.now + at_s, group.freeze)
            self.kernel.at(self.kernel.now + at_s + for_s, group.thaw)
        doom_s = self.platform.preemption_s(uniform)
        if doom_s < float("inf"):
            self.kernel.at(self.kernel.now + doom_s - self.platform.notice_s, world.ask_to_leave)
        if (end_s := min(doom_s, lifetime_s)) < float("inf"):
            self.kernel.at(self.kernel.now + end_s, group.kill)
        self.trace(self.kernel.now, StartedEvent(function=name, fault_plan=asdict(plan)))
        group.on_kill = lambda: self._ended(life, "killed", plan.restart_s, spare)
        group.spawn(self._live(life, plan, spare))

    async def _live(self, life: Life, plan: FaultPlan, spare: bool) -> None:
        assigned = range(life.index, self.settings.workers, self.functions)
        try:
            again = not life.name.endswith(".0")  # it finds what its predecessor left
            await life.world.sleep(self.platform.start_s(life.world.group.random.random, warm=again))
            await life.world.store.get(keys.RUN)
            function = Function(life.world, self.settings, life.machine, life.name, assigned, plan.dead)
            outcome: str = await function.run()
        except StoreUnavailable as error:
            outcome = str(error)
        except LambdaMLError as error:
            outcome, self.error = str(error), self.error or error
        except Exception as error:
            outcome, self.failure = repr(error), self.failure or error
        self._ended(life, outcome, plan.restart_s, spare)

    def _ended(self, life: Life, outcome: str, restart_s: float, spare: bool) -> None:
        life.ended_s, life.outcome = self.kernel.now, outcome
        life.world.group.dead = True
        code = {"done": DONE, "left": LEFT, "killed": DIED}.get(outcome, FAILED)
        self.trace(self.kernel.now, EndedEvent(function=life.name, code=code, outcome=outcome))
        if self.failure is not None:
            self._open = 0
        elif self.error is not None:
            for other in self.lives:
                other.world.ask_to_leave()
            self._open -= not spare
        elif not spare and outcome == "done" and (self._open > 1 or self.bucket.get(keys.MODEL) is not None):
            self._open -= 1  # the last one makes sure that the result exists, as `train` does
        elif not spare:
            self.kernel.at(self.kernel.now + restart_s, lambda: self.launch(life.index))

    def moved(self) -> Mapping[tuple[str, str], int]:
        """Return the bytes that all functions together moved from one region to another."""
        readings = [(life.index, life.world.store.meter.snapshot()) for life in self.lives]
        return self.placement.moved((index, one.bytes_sent, one.bytes_received) for index, one in readings)

    def log(self) -> list[Commit]:
        """Return the log so far, up to the first gap."""
        commits: list[Commit] = []
        while (data := self.bucket.get(keys.log(len(commits)))) is not None:
            commits.append(Commit.unpack(data, len(commits)))
        return commits

    def run_of(self) -> RunReader:
        """Return a reader of the run, over the bucket's objects."""
        return RunReader(MemoryStore.holding(self.bucket.objects, "virtual", lambda: self.kernel.now))
