"""The plan: all candidates with their estimates, the frontier of time and cost, the choice, and its reasons.

    plan = lambdaml.plan(Profile.load("digits.profile.json"), target="accuracy>=0.95", deadline_s=1200, budget_usd=1)
    plan.choice, plan.reason, plan.frontier, plan.explanations, plan.assumptions

Every candidate is estimated from short runs in the virtual world. The best are then simulated individually, and longer.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from lambdaml.cost.billing.prices import PriceBook
from lambdaml.cost.billing.prices import prices as own_prices
from lambdaml.cost.planning.assumptions import Assumption, assumptions
from lambdaml.cost.planning.candidates import GRADIENTS, Candidate, SearchSpace
from lambdaml.cost.planning.choice import frontier, keeps, nearest_feasible, ranked
from lambdaml.cost.planning.codec_choice import left_out
from lambdaml.cost.planning.crossover import Crossover, find_crossover
from lambdaml.cost.planning.elsewhere import Alternative, alternatives
from lambdaml.cost.planning.estimate import Estimate
from lambdaml.cost.planning.explain import explain_choice, reason
from lambdaml.cost.planning.objective import Aim, Objective
from lambdaml.cost.planning.pattern_choice import PLAINEST
from lambdaml.cost.planning.planner import Planner
from lambdaml.cost.profiling.iprof import IProf
from lambdaml.cost.profiling.measure import profile as measure_profile
from lambdaml.cost.profiling.profile import Profile
from lambdaml.engines.resources import cores
from lambdaml.errors import UserError
from lambdaml.job import Job

PROFILE_S = 20.0
"""The approximate seconds for measuring a job without a profile. Pilots may take one and a half times as many besides."""

REFINED = 12
"""The number of candidates that are simulated again individually."""

LEAST_REFINED = 3
"""The number of first places whose candidates are simulated again until all of them have been."""

LEAST_SEEDS = 2
"""The least simulations of each such candidate. Few candidates get more, since ssp depends on how functions start, unless
every request is simulated."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan.

    Attributes:
        profile: The profile that the plan was made from.
        objective: The objective that was asked for.
        candidates: The estimates of all candidates, feasible or not, the best first.
        frontier: The places of the candidates that no other beats in both time and cost.
        chosen: The place of the choice, or None if no candidate keeps deadline and budget.
        nearest: The place of the candidate nearest to them, or None if none would reach the target at all.
        reason: A sentence that says why the choice was made, or why there is none.
        explanations: A sentence for each neighbour of the choice that says why it was not chosen, and for the codecs that
            are no candidates.
        assumptions: The numbers on which the plan rests.
        seconds: The seconds that planning took.
        crossover: Where a codec with error feedback begins to be better than others, or None if the plan compares no
            codecs of both kinds.
        elsewhere: The choice, or the candidate that is nearest to one, on every platform; see
            `lambdaml.cost.planning.elsewhere`. It is empty if that was not asked for.
    """

    profile: Profile
    objective: Objective
    candidates: tuple[Estimate, ...]
    frontier: tuple[int, ...]
    chosen: int | None
    nearest: int | None
    reason: str
    explanations: tuple[str, ...]
    assumptions: tuple[Assumption, ...]
    seconds: float
    crossover: Crossover | None = None
    elsewhere: tuple[Alternative, ...] = ()

    @property
    def choice(self) -> Estimate | None:
        """The estimate of the chosen candidate, or None if there is no choice."""
        return None if self.chosen is None else self.candidates[self.chosen]

    def options(self) -> dict[str, Any]:
        """Return the choice as keyword arguments of `lambdaml.train`, with the expectations that run.json keeps.

        Raises:
            UserError: If there is no choice.
        """
        best = self.choice
        if best is None:
            raise UserError(f"no plan: {self.reason}")
        chosen = best.candidate
        algorithm = {} if chosen.algorithm == GRADIENTS else {"algorithm": chosen.algorithm}
        return {
            "schedule": chosen.schedule,
            **algorithm,
            **({} if chosen.pattern == PLAINEST else {"pattern": chosen.pattern}),
            "workers": chosen.workers,
            "functions": best.functions,
            "batch_size": chosen.batch_size,
            "codec": chosen.codec,
            "target": self.objective.target,
            "epochs": self.objective.remaining_epochs,
            "planned": {"reason": self.reason, "candidates": len(self.candidates), **best.to_dict()},
        }

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "objective": self.objective.to_dict(),
            "chosen": self.chosen,
            "nearest": self.nearest,
            "reason": self.reason,
            "explanations": list(self.explanations),
            "crossover": self.crossover and self.crossover.to_dict(),
            "elsewhere": [one.to_dict() for one in self.elsewhere],
            "frontier": list(self.frontier),
            "candidates": [found.to_dict() for found in self.candidates],
            "assumptions": [assumption.to_dict() for assumption in self.assumptions],
            "planning_s": round(self.seconds, 3),
        }


def plan(
    job: str | type[Job] | Job | Profile,
    *,
    target: str | None = None,
    epochs: float | None = None,
    deadline_s: float = math.inf,
    budget_usd: float = math.inf,
    minimise: Aim = "balanced",
    space: SearchSpace | None = None,
    stragglers: str = "none",
    regions: str | None = None,
    bucket_region: str | None = None,
    slow_link: str | None = None,
    snapshot_every: int | None = None,
    args: Mapping[str, Any] | None = None,
    prices: PriceBook | None = None,
    processes: int | None = None,
    crossover: bool = True,
    elsewhere: bool = True,
    progress: Callable[[float], None] = lambda share: None,
) -> Plan:
    """Plan a run: what each way to do it would cost, how long it would take, and which one to choose.

    The plan takes into account what earlier runs taught about the speed of platforms.

    Args:
        job: A profile, or a job as in `train`, which is measured first with its `args`.
        target, epochs, deadline_s, budget_usd, minimise, space, stragglers, snapshot_every: The objective; see
            `Objective`. The target defaults to that of the profile.
        regions, bucket_region, slow_link: The links of functions, as in `lambdaml.simulate`; all candidates must have as
            many functions as the regions. Every request is simulated then, and `crossover` is not looked for.
        prices: The price book. Defaults to the packaged prices with your own on top of them.
        processes: The number of processes that simulate side by side. Defaults to one for each core.
        crossover: Whether to find, in some seconds, where codecs with error feedback begin to be better.
        elsewhere: Whether to estimate the choice on every other platform, too.
        progress: A function that is told the finished share of the planning, now and then.

    Raises:
        SettingsError: If the objective makes no sense, or the profile does not hold what it needs.
        JobFailed: If the job's own code raised an error while it was measured.
    """
    space = space or SearchSpace()
    wanted = None if epochs else target
    if isinstance(job, Profile):
        profile = job
    else:
        algorithms, workers = space.algorithm_names, space.workers[1]
        wants: dict[str, Any] = {"target": wanted, "workers": workers, "algorithms": algorithms, "codecs": space.codecs}
        profile = measure_profile(job, args=args, seconds=PROFILE_S, **wants)
    target = target if epochs else target or profile.target
    objective = Objective(target, epochs, deadline_s, budget_usd, minimise, space, stragglers, snapshot_every)
    objective = replace(objective, regions=regions, bucket_region=bucket_region, slow_link=slow_link)
    iprof, book = IProf.open(profile), prices or own_prices()
    found = make_plan(profile, objective, book, iprof=iprof, processes=processes, progress=progress)
    found = with_crossover(found, book, iprof, progress) if crossover and not objective.links_differ else found
    return with_alternatives(found, book, iprof) if elsewhere else found


def make_plan(
    profile: Profile,
    objective: Objective,
    book: PriceBook | None = None,
    *,
    iprof: IProf | None = None,
    processes: int | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Plan:
    """Plan for an objective, with the caller's I-Prof and price book; see `plan`.

    Args:
        book: The price book. Defaults to the packaged one.
        iprof: The lessons of earlier runs. Without it, platforms are taken to be as fast as the measured machine.
    """
    began = time.monotonic()
    candidates = objective.space.candidates(profile, to_target=objective.epochs is None)
    with Planner(profile, objective, book or PriceBook.load(), iprof, processes or cores()) as planner:
        found = ranked(planner.estimates(candidates, progress), objective)
        seeds = LEAST_SEEDS if objective.links_differ else max(LEAST_SEEDS, 2 * REFINED // len(found))
        refined: dict[Candidate, Estimate] = {}
        while todo := [
            one.candidate for one in found[: LEAST_REFINED if refined else REFINED] if one.candidate not in refined
        ]:
            refined |= zip(todo, planner.refined(todo, seeds))
            found = ranked((refined.get(one.candidate, one) for one in found), objective)
    best = frontier(found)
    chosen = 0 if keeps(found[0], objective) else None
    nearest = chosen if chosen is not None else nearest_feasible(found, objective)
    return Plan(
        profile,
        objective,
        tuple(found),
        tuple(best),
        chosen,
        nearest,
        reason(found, chosen, nearest, objective),
        (*explain_choice(found, best, nearest, objective), *_left_out(profile, objective)),
        tuple(assumptions(planner.basis(candidates))),
        time.monotonic() - began,
    )


def with_crossover(
    plan: Plan, book: PriceBook, iprof: IProf | None, progress: Callable[[float], None] = lambda share: None
) -> Plan:
    """Return the plan with the crossover of codecs for its choice, or for the candidate that is nearest to one.

    Args:
        book, iprof: Those of the plan.
    """
    if plan.nearest is None:
        return plan
    began, best = time.monotonic(), plan.candidates[plan.nearest]
    found = find_crossover(plan.profile, plan.objective, plan.candidates, best, book, iprof, progress)
    return replace(plan, crossover=found, seconds=plan.seconds + time.monotonic() - began)


def with_alternatives(plan: Plan, book: PriceBook, iprof: IProf | None) -> Plan:
    """Return the plan with its choice, or the candidate that is nearest to one, on every platform.

    Args:
        book, iprof: Those of the plan.
    """
    if plan.nearest is None:
        return plan
    began, best = time.monotonic(), plan.candidates[plan.nearest]
    found = tuple(alternatives(plan.profile, plan.objective, best, book, iprof))
    return replace(plan, elsewhere=found, seconds=plan.seconds + time.monotonic() - began)


def _left_out(profile: Profile, objective: Objective) -> Iterator[str]:
    """Yield why codecs of the profile are no candidates, unless some were asked for."""
    for algorithm in objective.space.algorithm_names if not objective.space.codecs else ():
        yield from left_out(profile, algorithm, objective.epochs is None)
