"""The planner, which simulates the candidates of one plan and estimates each of them.

Candidates that differ only in how long a gradient takes lie on a line between the two extremes. Only the extremes are
therefore simulated at first, and how much longer functions take to start is added; later the best candidates are
simulated individually.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from lambdaml.cost.billing.bill import channel_of
from lambdaml.cost.billing.prices import PriceBook
from lambdaml.cost.billing.tariff import Tariff
from lambdaml.cost.planning.assumptions import Basis
from lambdaml.cost.planning.candidates import GRADIENTS, Candidate
from lambdaml.cost.planning.codec_choice import demand_pilots
from lambdaml.cost.planning.convergence import Convergence
from lambdaml.cost.planning.estimate import Estimate, StopCriterion, estimate
from lambdaml.cost.planning.objective import Objective
from lambdaml.cost.planning.pattern_choice import PLAINEST
from lambdaml.cost.planning.step_cost import (
    SIMULATED_UPDATES,
    Shape,
    StepCost,
    busy_share,
    mixed,
    simulate_step_cost,
    waits_s,
)
from lambdaml.cost.profiling.iprof import Device, IProf
from lambdaml.cost.profiling.profile import MEASURED, Profile
from lambdaml.engines.processes import fresh_processes
from lambdaml.errors import RunFailed, SettingsError
from lambdaml.schedules import SCHEDULES
from lambdaml.simulation.stragglers import STRAGGLERS
from lambdaml.simulation.stub_replica import HEADER_BYTES, Costs

REFINING_UPDATES = 512
"""The updates in a simulation of one of the best candidates."""

NEGLIGIBLE = 1 / 50
"""The share of a round below which codecs that differ so much in the transfer and the coding of updates share a
simulation."""

Progress = Callable[[float], None]
_Task = tuple[Shape, int, int]
"""A shape, a seed, and a number of updates."""

_Found = StepCost | str
"""The result of a simulation, or a sentence that says why such a run gets nowhere."""


class Planner:
    """The state that all estimates of one plan share.

    If it simulates in several processes, use it as a context manager: they stay until the block ends.

    Args:
        iprof: The lessons of earlier runs about platforms, or None to take these to be as fast as the measured machine.
        processes: The number of processes that simulate side by side.

    Raises:
        SettingsError: If the objective makes no sense, or the profile does not hold what it needs.
    """

    def __init__(
        self, profile: Profile, objective: Objective, book: PriceBook, iprof: IProf | None, processes: int
    ) -> None:
        self._profile, self._objective, self._book, self._iprof = profile, objective, book, iprof
        self._processes, self._open = processes, ExitStack()
        self._pool: ProcessPoolExecutor | None = None
        self._criterion = _stop_criterion(profile, objective)
        self._tariffs: dict[tuple[str, str], Tariff] = {}
        self._slowdowns: dict[Device, float] = {}
        self._stragglers = STRAGGLERS.make(objective.stragglers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)

    def basis(self, candidates: Sequence[Candidate]) -> Basis:
        """Return everything on which the estimates of these candidates rest."""
        prices = {price.id: price for tariff in self._tariffs.values() for price in tariff.prices}
        given = (self._profile, self._objective, self._criterion, tuple(prices.values()), candidates)
        return Basis(*given, self._slowdowns, self._iprof)

    def estimates(self, candidates: Sequence[Candidate], progress: Progress) -> list[Estimate]:
        """Return an estimate for each candidate, in order."""
        families: defaultdict[tuple[Any, ...], list[tuple[Candidate, Shape]]] = defaultdict(list)
        stand_ins: defaultdict[tuple[Any, ...], list[tuple[str, Shape]]] = defaultdict(list)
        for candidate in sorted(candidates, key=self._update_bytes, reverse=True):
            own = self._shape(candidate)
            place = replace(own.platform, cold_start_s=(0.0, 0.0))
            key = (own.schedule, candidate.algorithm, own.pattern, own.workers, own.functions, own.channel, place)
            others = stand_ins[*key, own.costs.step_s]
            shared = (pair for pair in others if own.pattern == PLAINEST and _alike(own, pair[1]))
            codec, shape = next(shared, (candidate.codec, own))
            if shape is own:
                others.append((codec, own))
            families[*key, codec].append((candidate, shape))
        ends = {key: _ends([shape for _, shape in members]) for key, members in families.items()}
        tasks = [(shape, 0, SIMULATED_UPDATES) for pair in ends.values() for shape in pair]
        simulated = self._simulate(tasks, progress)
        known: dict[Candidate, _Found] = {}
        for key, members in families.items():
            low, high = ends[key]
            first, last = (simulated[shape, 0, SIMULATED_UPDATES] for shape in (low, high))
            for candidate, shape in members:
                known[candidate] = self._with_codec(_between(shape, low, high, first, last), candidate, shape)
        return [self._estimate(candidate, known[candidate]) for candidate in candidates]

    def refined(self, candidates: Sequence[Candidate], seeds: int) -> list[Estimate]:
        """Return an estimate for each candidate from longer, individual simulations, one for each of `seeds` seeds."""
        shapes, each = [self._shape(candidate) for candidate in candidates], range(1, 1 + seeds)
        simulated = self._simulate([(shape, seed, REFINING_UPDATES) for shape in shapes for seed in each])
        means = [_mean([simulated[shape, seed, REFINING_UPDATES] for seed in each]) for shape in shapes]
        return [self._estimate(candidate, mean) for candidate, mean in zip(candidates, means, strict=True)]

    def _estimate(self, candidate: Candidate, found: _Found) -> Estimate:
        if isinstance(found, str):
            return Estimate(candidate, obstacle=found)
        functions = self._objective.space.functions_for(candidate)
        return estimate(candidate, found, self._profile, self._criterion, self._tariff(candidate), functions)

    def _tariff(self, candidate: Candidate) -> Tariff:
        """Return the prices of the candidate's platform, and of its channel's store."""
        platform = candidate.platform
        key = (billed_store(candidate, self._profile), platform.spec)
        if key not in self._tariffs:
            placement = self._objective.placement(self._objective.space.functions_for(candidate))
            self._tariffs[key] = Tariff(self._book, *key, platform.memory_mb, regions=placement.crossed)
        return self._tariffs[key]

    def _shape(self, candidate: Candidate) -> Shape:
        """Return the candidate's shape, with compute slowed by the platform's speed, and without the end of lifetimes,
        which estimates add.

        Platforms that differ only in their names, sizes and lifetimes therefore share a simulation.
        """
        functions = self._objective.space.functions_for(candidate)
        slowdown = self._slowdown(candidate, functions)
        placed = self._profile.placed(candidate.platform, functions, slowdown)
        slowdown /= candidate.platform.speed()
        return Shape(
            candidate.schedule,
            candidate.workers,
            candidate.batch_size,
            self._profile.job.samples,
            self._costs(candidate, slowdown),
            candidate.channel,
            replace(placed, name="", memory_mb=0, mb_per_vcpu=0.0, lifetime_s=math.inf),
            self._stragglers,
            functions,
            candidate.pattern,
            self._objective.placement(functions),
        )

    def _costs(self, candidate: Candidate, slowdown: float = 1.0) -> Costs:
        """Return the costs of the candidate's updates: local steps are simulated as one long gradient."""
        costs = self._profile.costs(candidate.batch_size, candidate.codec, slowdown, candidate.algorithm)
        return replace(costs, step_s=candidate.batches(self._profile.job.samples) * costs.step_s)

    def _slowdown(self, candidate: Candidate, functions: int) -> float:
        """Return how many times longer functions compute there than in the profile, as far as earlier runs tell."""
        if self._iprof is None:
            return 1.0
        device = Device.of(candidate.platform)
        if candidate.platform.name == "local":
            costs = self._costs(candidate)
            device = Device.here(functions, busy_share(costs, candidate.channel, candidate.workers, functions))
        self._slowdowns[device] = self._iprof.slowdown(device)
        return self._slowdowns[device]

    def _update_bytes(self, candidate: Candidate) -> int:
        return self._profile.facts(candidate.codec, candidate.algorithm).update_bytes

    def _with_codec(self, found: _Found, candidate: Candidate, shape: Shape) -> _Found:
        """Return the result for the shape, with the bytes of the candidate's own codec."""
        own = self._update_bytes(candidate)
        if isinstance(found, str) or own == shape.costs.update_bytes:
            return found
        ratio, step = (own + HEADER_BYTES) / (shape.costs.update_bytes + HEADER_BYTES), found.step
        moved = {pair: size * ratio for pair, size in step.moved.items()}
        sent_bytes, received_bytes = step.sent_bytes * ratio, step.received_bytes * ratio
        return replace(found, step=replace(step, sent_bytes=sent_bytes, received_bytes=received_bytes, moved=moved))

    def _simulate(self, tasks: Iterable[_Task], progress: Progress = lambda share: None) -> dict[_Task, _Found]:
        """Return the result of simulating each task. Tasks run side by side, the longest first."""
        todo = sorted(set(tasks), key=lambda task: -task[0].workers * (task[0].schedule != "bsp"))
        found: dict[_Task, _Found] = {}

        def note(results: Iterable[_Found]) -> None:
            for task, result in zip(todo, results, strict=True):
                found[task] = result
                progress(len(found) / len(todo))

        if self._processes > 1 and self._pool is None and len(todo) >= 8:
            given = (self._processes, _know, dict(SCHEDULES.factories))
            self._pool = self._open.enter_context(fresh_processes(*given))
        note(map(_simulated, todo) if self._pool is None else self._pool.map(_simulated, todo))
        return found


def _stop_criterion(profile: Profile, objective: Objective) -> StopCriterion:
    if objective.epochs is not None:
        return StopCriterion(None, objective.remaining_epochs, objective.snapshot_every)
    if objective.target is None:
        raise SettingsError("a plan needs a target, such as 'accuracy>=0.95', or epochs")
    if not profile.pilot or profile.target is None:
        raise SettingsError("the profile has no pilots: run 'lambdaml profile' with --target")
    names = objective.space.algorithm_names
    pilots = {name: [run for run in profile.pilot if run.algorithm == name] for name in names}
    if profile.target.replace(" ", "") != objective.target.replace(" ", ""):
        raise SettingsError(f"the profile's pilots trained to {profile.target!r}, not to {objective.target!r}")
    noise = profile.noise.samples if profile.noise else None
    for name in names:
        if not pilots[name]:
            raise SettingsError(
                f"the profile has no pilots of {name}: run 'lambdaml profile' with --target and --algorithm {name}"
            )
        demand_pilots(profile, name, objective.space.codecs)
    convergence = {
        name: Convergence(runs, noise, profile.coherence) if name == GRADIENTS else Convergence(runs)
        for name, runs in pilots.items()
    }
    return StopCriterion(convergence, None, objective.snapshot_every, objective.remaining)


def _alike(own: Shape, other: Shape) -> bool:
    """Return whether what one codec takes more than the other is a negligible share of a round."""
    costs, others = own.costs, other.costs
    per_s = min(own.channel.bandwidth_bytes_per_s, own.platform.bandwidth_bytes_per_s)
    moved_s = own.workers * abs(costs.update_bytes - others.update_bytes) / per_s
    worked_s = abs(costs.encode_s - others.encode_s) + own.workers * abs(costs.apply_update_s - others.apply_update_s)
    return moved_s + worked_s < NEGLIGIBLE * (own.costs.step_s + waits_s(own.channel))


def _ends(shapes: Sequence[Shape]) -> tuple[Shape, Shape]:
    """Return the shapes with the shortest and the longest gradients."""
    ordered = sorted(shapes, key=lambda shape: shape.costs.step_s)
    return ordered[0], ordered[0] if ordered[0].costs == ordered[-1].costs else ordered[-1]


def _know(schedules: dict[str, str]) -> None:
    """Make the caller's schedules, some of which may be the user's, known to this process."""
    SCHEDULES.factories.update(schedules)


def _simulated(task: _Task) -> _Found:
    try:
        return simulate_step_cost(*task)
    except RunFailed as error:
        return str(error)


def _between(shape: Shape, low: Shape, high: Shape, first: _Found, last: _Found) -> _Found:
    """Interpolate the cost of a gradient's time that lies between two others, and add how much later functions start."""
    if isinstance(first, str) or isinstance(last, str):
        return first if isinstance(first, str) else last
    span = high.costs.step_s - low.costs.step_s
    share = (shape.costs.step_s - low.costs.step_s) / span if span else 0.0
    own_s, low_s, high_s = (each.platform.cold_start_s[0] for each in (shape, low, high))
    return mixed(((1 - share, first), (share, last))).delayed(own_s - low_s - share * (high_s - low_s), shape.functions)


def _mean(found: Sequence[_Found]) -> _Found:
    obstacle = next((one for one in found if isinstance(one, str)), None)
    return obstacle or mixed([(1 / len(found), one) for one in found if not isinstance(one, str)])


def billed_store(candidate: Candidate, profile: Profile) -> str:
    """Return the store as which a candidate's is billed: the one that was measured has the name of its kind."""
    store, name = profile.store, candidate.channel.name
    return channel_of(store.url) if name == MEASURED and store is not None else name
