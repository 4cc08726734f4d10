"""What a run of one shape takes for each optimizer step, and once: from two short runs in the virtual world.

The same functions, store and schedule are simulated for a short and for a longer run, with the same chances. What the
longer one takes more, divided by the steps it takes more, is the price of a step; what is left is the price of a run:
cold starts, leases, the end. Everything a bill or a deadline needs is linear in the steps between these two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lambdaml.log.records import Commit
from lambdaml.schedules import SCHEDULES
from lambdaml.settings import JobSettings, make_settings
from lambdaml.simulation.channel import Channel
from lambdaml.simulation.flow import Flow, FlowResult
from lambdaml.simulation.platform import Platform
from lambdaml.simulation.scene import OnCommit
from lambdaml.simulation.stragglers import Stragglers
from lambdaml.simulation.stub_replica import Costs
from lambdaml.traces.effective import effective_staleness

SIMULATED_UPDATES = 128
"""Of the longer run, about."""

_LEAST_ROUNDS = 6
"""Its rounds: the others' pace must have been learnt."""


@dataclass(frozen=True, slots=True)
class Shape:
    """All that the course of a run in time depends on."""

    schedule: str
    workers: int
    batch_size: int
    samples: int
    costs: Costs
    channel: Channel
    platform: Platform
    stragglers: Stragglers
    functions: int


@dataclass(frozen=True, slots=True)
class Amounts:
    """Seconds, function-seconds, log entries, requests by kind, and bytes; of a run, or of a step."""

    seconds: float
    function_seconds: float
    commits: float
    requests: Mapping[str, float]
    sent_bytes: float
    received_bytes: float

    def plus(self, other: Amounts, times: float = 1.0) -> Amounts:
        """This and so many times the other."""
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
        """So many times this."""
        return NOTHING.plus(self, times)


NOTHING = Amounts(0.0, 0.0, 0.0, {}, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class StepCost:
    """What a run takes once, and for each optimizer step.

    Attributes:
        group: updates applied by a step, on average.
        staleness: of an applied update, on average.
        effective: staleness; see `lambdaml.traces.effective`.
        steps: of the longer run.
    """

    once: Amounts
    step: Amounts
    group: float
    staleness: float
    effective: float
    steps: int

    def of(self, steps: float) -> Amounts:
        """A run of so many steps."""
        return self.once.plus(self.step, steps)


def step_cost(shape: Shape, seed: int = 0, updates: int = SIMULATED_UPDATES) -> StepCost:
    """Simulate so many updates, about, but so many rounds at least; takes some 10 ms, up to 0.3 s with 64 asynchronous
    workers.

    Raises:
        RunFailed: such a run would get nowhere.
    """
    rounds = max(math.ceil(updates / shape.workers), _LEAST_ROUNDS)
    late: list[list[int]] = []

    def look(moment: float, commit: Commit) -> None:
        late.extend([entry.staleness for entry in step] for step in commit.steps)

    short = _flow(shape, rounds // 3 * shape.workers, seed)
    long = _flow(shape, rounds * shape.workers, seed, None if SCHEDULES.make(shape.schedule).deterministic else look)
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
    """Between paces, by shares."""
    once = step = NOTHING
    for share, part in parts:
        once, step = once.plus(part.once, share), step.plus(part.step, share)

    def mean(value: Callable[[StepCost], float]) -> float:
        return sum(share * value(part) for share, part in parts)

    means = mean(lambda part: part.group), mean(lambda part: part.staleness), mean(lambda part: part.effective)
    return StepCost(once, step, *means, parts[0][1].steps)


def waits_s(channel: Channel) -> float:
    """The least that a round waits for the store: an update is written, and read by another."""
    return sum(channel.latency_s(kind, 0.5) for kind in ("get", "create"))


def busy_share(costs: Costs, channel: Channel, workers: int, functions: int | None = None) -> float:
    """The share of a round's least time that a function computes, with so many that share the workers; by default one for
    each."""
    hosted = math.ceil(workers / (functions or workers))
    work_s = hosted * (costs.step_s + costs.encode_s) + costs.apply_s + workers * costs.apply_update_s
    return work_s / (work_s + waits_s(channel) + workers * channel.transfer_s(costs.update_bytes))


def _flow(shape: Shape, updates: int, seed: int, on_commit: OnCommit | None = None) -> FlowResult:
    """A run that ends when so many updates have a fate, as at a target: the slowest need not have made their share."""
    settings = make_settings(
        job=JobSettings(spec="planned"),
        workers=shape.workers,
        steps=updates,
        schedule=shape.schedule,
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
    """Mean staleness of what the longer run did after the shorter one ended."""
    first, all_ = short.fates["applied"], long.fates["applied"]
    mean = (all_ * long.staleness.mean - first * short.staleness.mean) / (all_ - first)
    return max(0.0, mean)


def _amounts(flow: FlowResult) -> Amounts:
    return Amounts(
        flow.seconds,
        flow.function_seconds,
        flow.commits,
        flow.requests,
        flow.bytes_sent,
        flow.bytes_received,
    )
