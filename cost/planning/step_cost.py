"""The amounts that a run of one shape takes for each optimizer step, and once, from two short simulated runs.

The same functions, store and schedule are simulated for a short and for a longer run, with the same seed. The
difference of their amounts, divided by the difference of their steps, is the cost of a step. The rest is the cost of a
run: cold starts, leases, the end. Everything that a bill or a deadline needs is linear in the steps between these two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from lambdaml.log.records import Commit
from lambdaml.schedules import SCHEDULES, in_rounds
from lambdaml.settings import JobSettings, make_settings
from lambdaml.simulation.channel import Channel
from lambdaml.simulation.flow import Flow
from lambdaml.simulation.platform import Platform
from lambdaml.simulation.scenario import FlowResult, OnCommit
from lambdaml.simulation.stragglers import Stragglers
from lambdaml.simulation.stub_replica import Costs
from lambdaml.traces.effective import effective_staleness

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


@dataclass(frozen=True, slots=True)
class Amounts:
    """The seconds, function-seconds, log entries, requests by kind and bytes that a run or a step takes."""

    seconds: float
    function_seconds: float
    commits: float
    requests: Mapping[str, float]
    sent_bytes: float
    received_bytes: float

    def plus(self, other: Amounts, times: float = 1.0) -> Amounts:
        """Return these amounts plus `times` the other ones."""
        kinds = {*self.requests, *other.requests}
        return Amounts(
            self.seconds + times * other.seconds,
            self.function_seconds + times * other.function_seconds,
            self.commits + times * other.commits,
            {kind: self.requests.get(kind, 0.0) + times * other.requests.get(kind, 0.0) for kind in kinds},
            self.sent_bytes + times * other.sent_bytes,
            self.received_bytes + times * other.received_bytes,
        )

    def scaled(self, times: float) -> Amounts:
        """Return these amounts multiplied by `times`."""
        return NOTHING.plus(self, times)


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

    Raises:
        RunFailed: If such a run would get nowhere.
    """
    rounds = max(math.ceil(updates / shape.workers), _LEAST_ROUNDS)
    late: list[list[int]] = []

    def look(moment: float, commit: Commit) -> None:
        late.extend([entry.staleness for entry in step] for step in commit.steps)

    short = _flow(shape, rounds // 3 * shape.workers, seed)
    fresh = in_rounds(SCHEDULES.make(shape.schedule), shape.workers)
    long = _flow(shape, rounds * shape.workers, seed, None if fresh else look)
    steps = long.version - short.version
    step = _amounts(long).plus(_amounts(short), -1.0).scaled(1.0 / steps)
    return StepCost(
        once=_amounts(short).plus(step, -float(short.version)),
        step=step,
        group=long.fates["applied"] / long.version,
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


def _flow(shape: Shape, updates: int, seed: int, on_commit: OnCommit | None = None) -> FlowResult:
    """Simulate a run that ends when `updates` updates have a fate, as at a target: slow workers may make fewer."""
    settings = make_settings(
        job=JobSettings(spec="planned"),
        workers=shape.workers,
        steps=updates,
        schedule=shape.schedule,
        pattern=shape.pattern,
        batch_size=shape.batch_size,
        samples=max(shape.samples, shape.workers),
        steps_per_epoch=updates,
        parameters=0,
        snapshot_every=10**9,
        token="planned",
    )
    given = (settings, shape.functions, shape.costs, shape.channel, shape.platform, shape.stragglers, seed)
    return Flow(*given, on_commit).run(updates)


def _late_mean(short: FlowResult, long: FlowResult) -> float:
    """Return the mean staleness in the part of the longer run after the end of the shorter one."""
    first, all_ = short.fates["applied"], long.fates["applied"]
    mean = (all_ * long.staleness.mean - first * short.staleness.mean) / (all_ - first)
    return max(0.0, mean)


def _amounts(flow: FlowResult) -> Amounts:
    moved = flow.bytes_sent, flow.bytes_received
    return Amounts(flow.seconds, flow.function_seconds, flow.commits, flow.requests, *moved)
