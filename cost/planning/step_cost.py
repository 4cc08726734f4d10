"""The amounts that a run of one shape takes for each optimizer step, and once, from two short simulated runs.

The same functions, store and schedule are simulated for a short and for a longer run, with the same seed. The
difference of their amounts, divided by the difference of their steps, is the cost of a step. The rest is the cost of a
run: cold starts, leases, the end. Everything that a bill or a deadline needs is linear in the steps between these two.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeVar

from lambdaml.events import Event
from lambdaml.log import keys, wire
from lambdaml.log.records import Commit
from lambdaml.log.summary import Staleness
from lambdaml.schedules import SCHEDULES, in_rounds
from lambdaml.settings import JobSettings, Settings, make_settings
from lambdaml.simulation.channel import Channel
from lambdaml.simulation.engine import VirtualRun
from lambdaml.simulation.flow import Flow
from lambdaml.simulation.platform import Platform
from lambdaml.simulation.regions import Placement
from lambdaml.simulation.scenario import OnCommit
from lambdaml.simulation.stragglers import Stragglers
from lambdaml.simulation.stub_replica import Costs
from lambdaml.traces.effective import effective_staleness

T = TypeVar("T")

SIMULATED_UPDATES = 128
"""The approximate updates of the longer run."""

_LEAST_ROUNDS = 6
"""The least rounds of the longer run. By then functions have learnt when the others publish."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Everything on which the course of a run in time depends."""

    schedule: str
    workers: int
    batch_size: int
    samples: int
    costs: Costs
    channel: Channel
    platform: Platform
    stragglers: Stragglers
    functions: int
    pattern: str = "gather"
    placement: Placement = field(default_factory=Placement)


@dataclass(frozen=True, slots=True)
class Amounts:
    """The seconds, function-seconds, log entries, requests by kind, bytes, and bytes by pair of regions that a run or a step
    takes."""

    seconds: float
    function_seconds: float
    commits: float
    requests: Mapping[str, float]
    sent_bytes: float
    received_bytes: float
    moved: Mapping[tuple[str, str], float] = field(default_factory=dict)

    def plus(self, other: Amounts, times: float = 1.0) -> Amounts:
        """Return these amounts plus `times` the other ones."""
        return Amounts(
            self.seconds + times * other.seconds,
            self.function_seconds + times * other.function_seconds,
            self.commits + times * other.commits,
            _sum(self.requests, other.requests, times),
            self.sent_bytes + times * other.sent_bytes,
            self.received_bytes + times * other.received_bytes,
            _sum(self.moved, other.moved, times),
        )

    def scaled(self, times: float) -> Amounts:
        """Return these amounts multiplied by `times`."""
        return NOTHING.plus(self, times)


def _sum(one: Mapping[T, float], other: Mapping[T, float], times: float) -> dict[T, float]:
    return {kind: one.get(kind, 0.0) + times * other.get(kind, 0.0) for kind in {**one, **other}}


NOTHING = Amounts(0.0, 0.0, 0.0, {}, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class StepCost:
    """The amounts that a run takes once, and for each optimizer step.

    Attributes:
        once: The amounts that a run takes, whatever its length.
        step: The amounts that each optimizer step takes.
        group: The average updates that a step applies.
        staleness: The average staleness of an applied update.
        effective: The effective staleness; see `lambdaml.traces.effective`.
        steps: The optimizer steps of the longer of the two simulated runs.
    """

    once: Amounts
    step: Amounts
    group: float
    staleness: float
    effective: float
    steps: int

    def of(self, steps: float) -> Amounts:
        """Return the amounts that a run of this many steps takes."""
        return self.once.plus(self.step, steps)

    def delayed(self, seconds: float, functions: int) -> StepCost:
        """Return the costs of a run whose functions all begin so many seconds later."""
        return replace(self, once=self.once.plus(Amounts(seconds, functions * seconds, 0.0, {}, 0.0, 0.0)))


def simulate_step_cost(shape: Shape, seed: int = 0, updates: int = SIMULATED_UPDATES) -> StepCost:
    """Simulate about this many updates, in some 10 ms, or up to 0.3 s with 64 asynchronous workers.

    If links differ, every request is simulated, which takes seconds.

    Raises:
        RunFailed: If such a run would get nowhere.
    """
    rounds = max(math.ceil(updates / shape.workers), _LEAST_ROUNDS)
    late: list[list[int]] = []

    def look(moment: float, commit: Commit) -> None:
        late.extend([entry.staleness for entry in step] for step in commit.steps)

    simulated = _virtual_course if shape.placement else _course
    short = simulated(shape, rounds // 3 * shape.workers, seed)
    fresh = in_rounds(SCHEDULES.make(shape.schedule), shape.workers)
    long = simulated(shape, rounds * shape.workers, seed, None if fresh else look)
    steps = long.version - short.version
    step = long.amounts.plus(short.amounts, -1.0).scaled(1.0 / steps)
    return StepCost(
        once=short.amounts.plus(step, -float(short.version)),
        step=step,
        group=long.late.total() / long.version,
        staleness=_late_mean(short, long),
        effective=effective_staleness(late[short.version :]),
        steps=long.version,
    )


def mixed(parts: Sequence[tuple[float, StepCost]]) -> StepCost:
    """Return the mean of several costs, weighted by shares that add up to 1."""
    once = step = NOTHING
    for share, part in parts:
        once, step = once.plus(part.once, share), step.plus(part.step, share)

    def mean(value: Callable[[StepCost], float]) -> float:
        return sum(share * value(part) for share, part in parts)

    means = mean(lambda part: part.group), mean(lambda part: part.staleness), mean(lambda part: part.effective)
    return StepCost(once, step, *means, parts[0][1].steps)


def waits_s(channel: Channel) -> float:
    """Return the least seconds that a round waits for the store: a function writes an update, another one reads it."""
    return sum(channel.latency_s(kind, 0.5) for kind in ("get", "create"))


def busy_share(costs: Costs, channel: Channel, workers: int, functions: int | None = None) -> float:
    """Return the share of a round's least time in which a function computes.

    Args:
        functions: The number of functions that share the workers. Defaults to one for each worker.
    """
    hosted = math.ceil(workers / (functions or workers))
    work_s = hosted * (costs.step_s + costs.encode_s) + costs.apply_s + workers * costs.apply_update_s
    return work_s / (work_s + waits_s(channel) + workers * channel.transfer_s(costs.update_bytes))


class _Course(NamedTuple):
    """What a run took, the version that it reached, and the number of applied updates for each staleness."""

    amounts: Amounts
    version: int
    late: Counter[int]


def _course(shape: Shape, updates: int, seed: int, on_commit: OnCommit | None = None) -> _Course:
    """Simulate a run that ends when `updates` updates have a fate, as at a target: slow workers may make fewer."""
    given = (shape.functions, shape.costs, shape.channel, shape.platform, shape.stragglers, seed)
    flow = Flow(_settings(shape, updates), *given, on_commit).run(updates)
    moved = flow.bytes_sent, flow.bytes_received
    amounts = Amounts(flow.seconds, flow.function_seconds, flow.commits, flow.requests, *moved)
    return _Course(amounts, flow.version, flow.late)


def _virtual_course(shape: Shape, updates: int, seed: int, on_commit: OnCommit | None = None) -> _Course:
    """Simulate such a run request by request.

    If a schedule has no rounds, the run is asked to stop when so many updates have a fate, and what it takes from then on
    to the last commit is left out.
    """
    rounds, taken = in_rounds(SCHEDULES.make(shape.schedule), shape.workers), []
    given = (shape.functions, shape.costs, shape.channel, shape.platform, shape.stragglers, seed, shape.placement)

    def watch(now: float, event: Event) -> None:
        if event.event == "commit" and event.progress >= updates and not rounds:
            taken.append((event.commit, _taken(virtual)))
            virtual.bucket.try_create(keys.STOP, wire.dump_json({"reason": "cancelled", "version": None}))

    virtual = VirtualRun(_settings(shape, updates // shape.workers if rounds else 10 * updates), *given, trace=watch)
    virtual.run()
    commits, amounts = virtual.log(), _taken(virtual)
    if taken:
        (first, until), (_, last) = taken[0], taken[-1]
        commits, amounts = commits[: first + 1], until.plus(amounts.plus(last, -1.0))
    late: Counter[int] = Counter()
    for commit in commits:
        late.update(entry.staleness for entry in commit.entries if entry.fate == "applied")
        if on_commit is not None:
            on_commit(0.0, commit)
    return _Course(replace(amounts, commits=len(commits)), commits[-1].last_version, late)


def _taken(virtual: VirtualRun) -> Amounts:
    """Return what a run has taken so far, without its commits."""
    now, requests, sent_bytes, received_bytes, function_seconds = virtual.kernel.now, Counter[str](), 0, 0, 0.0
    for life in virtual.lives:
        reading = life.world.store.meter.snapshot()
        requests.update(reading.requests)
        sent_bytes += reading.bytes_sent
        received_bytes += reading.bytes_received
        function_seconds += (now if life.ended_s is None else life.ended_s) - life.started_s
    return Amounts(now, function_seconds, 0.0, requests, sent_bytes, received_bytes, virtual.moved())


def _settings(shape: Shape, steps: int) -> Settings:
    return make_settings(
        job=JobSettings(spec="planned"),
        workers=shape.workers,
        steps=steps,
        schedule=shape.schedule,
        pattern=shape.pattern,
        batch_size=shape.batch_size,
        samples=max(shape.samples, shape.workers),
        steps_per_epoch=steps,
        parameters=0,
        snapshot_every=10**9,
        token="planned",
    )


def _late_mean(short: _Course, long: _Course) -> float:
    """Return the mean staleness in the part of the longer run after the end of the shorter one."""
    first, all_ = short.late.total(), long.late.total()
    means = Staleness.of_counts(short.late).mean, Staleness.of_counts(long.late).mean
    return max(0.0, (all_ * means[1] - first * means[0]) / (all_ - first))
