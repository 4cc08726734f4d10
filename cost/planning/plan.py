"""The plan: all candidates with what they would take, the frontier of time and cost, the choice, and why.

    plan = make_plan(Profile.load("digits.profile.json"), Wishes(target="accuracy>=0.95", deadline_s=1200, budget_usd=1))
    plan.chosen, plan.frontier, plan.explanations, plan.assumptions

Every candidate goes through the virtual world (`lambdaml.cost.planning.step_cost`). Candidates that differ in how long a gradient
takes, and in nothing else that matters to the course of a run, lie on a line between the two extremes, which are
simulated; the best are then simulated as they are, and longer.
"""

from __future__ import annotations

import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from lambdaml.cost.billing.bill import channel_of
from lambdaml.cost.billing.prices import PriceBook
from lambdaml.cost.billing.tariff import Tariff
from lambdaml.cost.planning.assumptions import Assumption, Basis, assumptions
from lambdaml.cost.planning.candidates import Candidate, SearchSpace
from lambdaml.cost.planning.choice import frontier, keeps, nearest_feasible, ranked
from lambdaml.cost.planning.convergence import Convergence
from lambdaml.cost.planning.estimate import Estimate, StopCriterion, estimate
from lambdaml.cost.planning.step_cost import SIMULATED_UPDATES, Shape, StepCost, busy_share, mixed, step_cost, waits_s
from lambdaml.cost.profiling.iprof import Device, IProf
from lambdaml.cost.profiling.profile import MEASURED, Profile
from lambdaml.engines.processes import fresh_processes
from lambdaml.errors import RunFailed, SettingsError, UserError
from lambdaml.schedules import SCHEDULES
from lambdaml.simulation.channel import Channel
from lambdaml.simulation.platform import Platform
from lambdaml.simulation.stragglers import STRAGGLERS
from lambdaml.simulation.stub_replica import Costs

REFINED = 12
"""Candidates that are simulated once more, as they are."""

LEAST_REFINED = 3
"""And then whatever has come to the first places."""

LEAST_SEEDS = 2
"""Simulations of each, at least; of few candidates more, for the course of ssp depends on how functions happened to start."""

REFINING_UPDATES = 512

NEGLIGIBLE = 1 / 50
"""Share of a round's least time below which the transfer of its updates plays no part: then codecs share a simulation."""

Aim = Literal["cost", "time", "balanced"]


@dataclass(frozen=True, slots=True)
class Objective:
    """What is wanted.

    Attributes:
        target: as the profile's pilots had it; or `epochs` over the data.
        deadline_s, budget_usd: that nine of ten runs must keep.
        minimise: `balanced` is the least product of time and cost.
        stragglers: as `simulate` has them.
        snapshot_every: as in `train`: a target is looked for in snapshots only.
        left: the share of the way that is still to go; the rest has been gone by a run that this one goes on from.
    """

    target: str | None = None
    epochs: float | None = None
    deadline_s: float = math.inf
    budget_usd: float = math.inf
    minimise: Aim = "balanced"
    space: SearchSpace = field(default_factory=SearchSpace)
    stragglers: str = "none"
    snapshot_every: int | None = None
    left: float = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan.

    Attributes:
        candidates: all, feasible or not; the best first.
        frontier: places of those that no other beats in both time and cost.
        chosen: place of the choice; None where no candidate keeps deadline and budget.
        nearest: place of the one that comes nearest to them; None where none would reach the target at all.
        reason: of the choice, or why there is none; a sentence.
        explanations: a sentence each.
        seconds: that planning took.
    """

    wishes: Objective
    candidates: tuple[Estimate, ...]
    frontier: tuple[int, ...]
    chosen: int | None
    nearest: int | None
    reason: str
    explanations: tuple[str, ...]
    assumptions: tuple[Assumption, ...]
    seconds: float

    @property
    def choice(self) -> Estimate | None:
        """The chosen candidate."""
        return None if self.chosen is None else self.candidates[self.chosen]

    def options(self) -> dict[str, Any]:
        """The choice as keyword arguments of `lambdaml.train`; what is expected of it goes into run.json.

        Raises:
            UserError: there is no choice.
        """
        best = self.choice
        if best is None:
            raise UserError(f"no plan: {self.reason}")
        chosen = best.candidate
        return {
            "schedule": chosen.schedule,
            "workers": chosen.workers,
            "functions": best.functions,
            "batch_size": chosen.batch_size,
            "codec": chosen.codec,
            "target": self.wishes.target,
            "epochs": self.wishes.epochs and self.wishes.epochs * self.wishes.left,
            "planned": {"reason": self.reason, "candidates": len(self.candidates), **best.to_dict()},
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        wishes = {k: v for k, v in asdict(self.wishes).items() if v is not None and v != math.inf}
        return {
            "wishes": wishes,
            "chosen": self.chosen,
            "nearest": self.nearest,
            "reason": self.reason,
            "explanations": list(self.explanations),
            "frontier": list(self.frontier),
            "candidates": [found.to_dict() for found in self.candidates],
            "assumptions": [assumption.to_dict() for assumption in self.assumptions],
            "planning_s": round(self.seconds, 3),
        }


def make_plan(
    profile: Profile,
    wishes: Objective,
    book: PriceBook | None = None,
    *,
    iprof: IProf | None = None,
    processes: int | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Plan:
    """Plan.

    Args:
        iprof: what earlier runs taught of how fast platforms are; without it, as fast as where was measured.
        processes: that simulate side by side; by default one a core.

    Raises:
        SettingsError: what was asked for makes no sense, or the profile does not hold what it needs.
    """
    began = time.monotonic()
    goal = _goal(profile, wishes)
    candidates = wishes.space.candidates(profile)
    desk = _Desk(profile, wishes, goal, book or PriceBook.load(), iprof)
    processes = processes or os.cpu_count() or 1
    found = ranked(desk.estimates(candidates, processes, progress), wishes)
    seeds = max(LEAST_SEEDS, 2 * REFINED // len(found))
    refined: set[Candidate] = set()
    while todo := [one for one in found[: REFINED if not refined else LEAST_REFINED] if one.candidate not in refined]:
        refined |= {one.candidate for one in todo}
        again = {one.candidate: one for one in desk.refined(todo, seeds, processes)}
        found = ranked((again.get(one.candidate, one) for one in found), wishes)
    best = frontier(found)
    chosen = 0 if keeps(found[0], wishes) else None
    close = chosen if chosen is not None else nearest_feasible(found, wishes)
    from lambdaml.cost.planning.explain import explain_choice, reason

    return Plan(
        wishes,
        tuple(found),
        tuple(best),
        chosen,
        close,
        reason(found, chosen, close, wishes),
        tuple(explain_choice(found, best, close, wishes)),
        tuple(assumptions(desk.basis(candidates))),
        time.monotonic() - began,
    )


def _goal(profile: Profile, wishes: Objective) -> StopCriterion:
    if wishes.epochs is not None:
        return StopCriterion(None, wishes.epochs * wishes.left, wishes.snapshot_every)
    if wishes.target is None:
        raise SettingsError("a plan needs a target, such as 'accuracy>=0.95', or epochs")
    if not profile.pilot or profile.target is None:
        raise SettingsError("the profile has no pilots: run 'lambdaml profile' with --target")
    if profile.target.replace(" ", "") != wishes.target.replace(" ", ""):
        raise SettingsError(f"the profile's pilots trained to {profile.target!r}, not to {wishes.target!r}")
    noise = profile.noise.samples if profile.noise else None
    return StopCriterion(Convergence(profile.pilot, noise, profile.coherence), None, wishes.snapshot_every, wishes.left)


class _Desk:
    """What all estimates of one plan share."""

    def __init__(
        self, profile: Profile, wishes: Objective, goal: StopCriterion, book: PriceBook, iprof: IProf | None
    ) -> None:
        self.profile, self.wishes, self.goal, self.book, self._iprof = profile, wishes, goal, book, iprof
        self._channels: dict[str, Channel] = {}
        self._tariffs: dict[tuple[str, str], Tariff] = {}
        self._slowdowns: dict[Device, float] = {}
        self._stragglers = STRAGGLERS.make(wishes.stragglers)
        self._largest = max(profile.codecs, key=lambda codec: profile.codecs[codec].update_bytes)

    def channel(self, spec: str) -> Channel:
        if spec not in self._channels:
            if spec == MEASURED and self.profile.store is None:
                raise SettingsError("the profile measured no store: give 'lambdaml profile' one with --store")
            measured = self.profile.store if spec == MEASURED else None
            self._channels[spec] = measured.channel() if measured else Channel.parse(spec)
        return self._channels[spec]

    def tariff(self, candidate: Candidate) -> Tariff:
        key = (self.billed_as(candidate.channel), candidate.platform)
        if key not in self._tariffs:
            self._tariffs[key] = Tariff(self.book, *key)
        return self._tariffs[key]

    def billed_as(self, channel: str) -> str:
        """The store of the price book that a channel stands for."""
        store = self.profile.store
        return channel_of(store.url) if channel == MEASURED and store is not None else channel

    def basis(self, candidates: Sequence[Candidate]) -> Basis:
        """What all this rests on."""
        prices = {price.id: price for tariff in self._tariffs.values() for price in tariff.prices}
        given = (self.profile, self.wishes, self.goal, tuple(prices.values()), candidates)
        return Basis(*given, self._channels, self._slowdowns, self._iprof)

    def shape(self, candidate: Candidate, codec: str | None = None) -> Shape:
        """The candidate's; compute is slowed by what its memory buys, so that platforms which differ in name and size
        alone share a simulation."""
        platform = Platform.parse(candidate.platform)
        functions = self.wishes.space.functions_for(candidate)
        slowdown = self._slowdown(candidate, functions, platform)
        placed = self.profile.placed(candidate.platform, functions, slowdown)
        slowdown /= platform.speed()
        return Shape(
            candidate.schedule,
            candidate.workers,
            candidate.batch_size,
            self.profile.job.samples,
            self.profile.costs(candidate.batch_size, codec or candidate.codec, slowdown=slowdown),
            self.channel(candidate.channel),
            replace(placed, name="", memory_mb=0, mb_per_vcpu=0.0),
            self._stragglers,
            functions,
        )

    def _slowdown(self, candidate: Candidate, functions: int, platform: Platform) -> float:
        """Of so many functions there against where the profile was measured, as far as earlier runs tell."""
        if self._iprof is None:
            return 1.0
        if platform.name == "local":
            costs = self.profile.costs(candidate.batch_size, candidate.codec)
            busy = busy_share(costs, self.channel(candidate.channel), candidate.workers, functions)
            device = Device.here(functions, busy)
        else:
            device = Device.of(platform)
        self._slowdowns[device] = self._iprof.slowdown(device)
        return self._slowdowns[device]

    def estimate(self, candidate: Candidate, step_cost: StepCost | str) -> Estimate:
        if isinstance(step_cost, str):
            return Estimate(candidate, obstacle=step_cost)
        channel, tariff = self.channel(candidate.channel), self.tariff(candidate)
        functions = self.wishes.space.functions_for(candidate)
        return estimate(candidate, step_cost, self.profile, self.goal, channel, tariff, functions)

    def estimates(
        self, candidates: Sequence[Candidate], processes: int, progress: Callable[[float], None]
    ) -> list[Estimate]:
        """One for each candidate, in order."""
        families: defaultdict[tuple[Any, ...], list[tuple[Candidate, Shape]]] = defaultdict(list)
        for candidate in candidates:
            shape = self._standing_for(candidate)
            key = (
                shape.schedule,
                shape.workers,
                shape.functions,
                shape.channel.name,
                shape.platform,
                shape.costs.update_bytes,
            )
            families[key].append((candidate, shape))
        ends = {key: _ends([shape for _, shape in members]) for key, members in families.items()}
        paces = _simulate(
            [(shape, 0, SIMULATED_UPDATES) for pair in ends.values() for shape in pair], processes, progress
        )
        known: dict[Candidate, StepCost | str] = {}
        for key, members in families.items():
            low, high = ends[key][0], ends[key][-1]
            for candidate, shape in members:
                between = _between(
                    shape.costs, low, high, paces[low, 0, SIMULATED_UPDATES], paces[high, 0, SIMULATED_UPDATES]
                )
                known[candidate] = self._with_codec(between, candidate, shape)
        return [self.estimate(candidate, known[candidate]) for candidate in candidates]

    def _standing_for(self, candidate: Candidate) -> Shape:
        """What is simulated for the candidate: where bytes take no time, that of the largest codec."""
        shape = self.shape(candidate, self._largest)
        per_s = min(shape.channel.bandwidth_bytes_per_s, shape.platform.bandwidth_bytes_per_s)
        moved_s = candidate.workers * shape.costs.update_bytes / per_s
        round_s = shape.costs.step_s + waits_s(shape.channel)
        return shape if moved_s < NEGLIGIBLE * round_s else self.shape(candidate)

    def _with_codec(self, step_cost: StepCost | str, candidate: Candidate, shape: Shape) -> StepCost | str:
        """The bytes of the candidate's own codec."""
        own = self.profile.codecs[candidate.codec].update_bytes
        if isinstance(step_cost, str) or own == shape.costs.update_bytes:
            return step_cost
        ratio = own / shape.costs.update_bytes
        step = replace(
            step_cost.step,
            sent_bytes=step_cost.step.sent_bytes * ratio,
            received_bytes=step_cost.step.received_bytes * ratio,
        )
        return replace(step_cost, step=step)

    def refined(self, found: Sequence[Estimate], seeds: int, processes: int) -> list[Estimate]:
        """The same candidates, each simulated as it is, so many times with other seeds."""
        shapes, each = [self.shape(one.candidate) for one in found], range(1, 1 + seeds)
        paces = _simulate([(shape, seed, REFINING_UPDATES) for shape in shapes for seed in each], processes)
        means = [_mean([paces[shape, seed, REFINING_UPDATES] for seed in each]) for shape in shapes]
        return [self.estimate(one.candidate, mean) for one, mean in zip(found, means, strict=True)]


def _ends(shapes: Sequence[Shape]) -> tuple[Shape, ...]:
    """The shapes with the shortest and the longest gradients, once where these are the same."""
    ordered = sorted(shapes, key=lambda shape: shape.costs.step_s)
    return (ordered[0],) if ordered[0].costs == ordered[-1].costs else (ordered[0], ordered[-1])


_Task = tuple[Shape, int, int]
"""A shape, a seed, and updates."""


def _simulate(
    tasks: Sequence[_Task], processes: int, progress: Callable[[float], None] = lambda share: None
) -> dict[_Task, StepCost | str]:
    """The paces of all tasks, side by side; a sentence in place of one that gets nowhere."""
    todo = sorted(set(tasks), key=lambda task: -task[0].workers * (task[0].schedule != "bsp"))
    paces: dict[_Task, StepCost | str] = {}
    if processes == 1 or len(todo) < 8:
        for task in todo:
            paces[task] = _pace(task)
            progress(len(paces) / len(todo))
        return paces
    with fresh_processes(processes, _know, dict(SCHEDULES.factories)) as pool:
        for task, found in zip(todo, pool.map(_pace, todo, chunksize=2), strict=True):
            paces[task] = found
            progress(len(paces) / len(todo))
    return paces


def _know(schedules: dict[str, str]) -> None:
    """Have this process know the schedules that the caller knows, some of which may be the user's."""
    SCHEDULES.factories.update(schedules)


def _pace(task: _Task) -> StepCost | str:
    try:
        return step_cost(*task)
    except RunFailed as error:
        return str(error)


def _between(costs: Costs, low: Shape, high: Shape, first: StepCost | str, last: StepCost | str) -> StepCost | str:
    """The pace at a gradient's time that lies between two."""
    if isinstance(first, str) or isinstance(last, str):
        return first if isinstance(first, str) else last
    span = high.costs.step_s - low.costs.step_s
    share = (costs.step_s - low.costs.step_s) / span if span else 0.0
    return mixed(((1 - share, first), (share, last)))


def _mean(paces: Sequence[StepCost | str]) -> StepCost | str:
    obstacle = next((step_cost for step_cost in paces if isinstance(step_cost, str)), None)
    return obstacle or mixed([(1 / len(paces), step_cost) for step_cost in paces if not isinstance(step_cost, str)])
