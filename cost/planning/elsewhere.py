"""The choice of a plan on every platform that has a price: what it would cost there, and whether an engine runs it there."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from lambdaml.cost.billing.prices import PriceBook
from lambdaml.cost.billing.tariff import BILLED
from lambdaml.cost.planning.candidates import HEADROOM, Candidate, SearchSpace
from lambdaml.cost.planning.choice import ranked
from lambdaml.cost.planning.estimate import Estimate
from lambdaml.cost.planning.objective import Objective
from lambdaml.cost.planning.planner import Planner
from lambdaml.cost.profiling.iprof import IProf
from lambdaml.cost.profiling.profile import Profile
from lambdaml.errors import SettingsError
from lambdaml.simulation.platform import NAMES, PUBLISHED, Platform

PLATFORM_ENGINES = {"local": "local", "spot": "ray", "lambda-arm": "lambda", "lambda-x86": "lambda"}
"""The engine that runs functions on each platform for which there is one."""


@dataclass(frozen=True, slots=True)
class Alternative:
    """The choice of a plan on one platform.

    Attributes:
        estimate: The estimate of the best size of a function there.
        step_s, minimum_s, instances: The seconds to whose next multiple a function's time is billed, the least seconds
            that are billed for it, and the least instances that are billed as long as the run lasts.
    """

    estimate: Estimate
    step_s: float
    minimum_s: float
    instances: float

    @property
    def platform(self) -> Platform:
        """The platform."""
        return self.estimate.candidate.platform

    @property
    def engine(self) -> str | None:
        """The engine that runs functions there, or None if there is none."""
        return PLATFORM_ENGINES.get(self.platform.name)

    @property
    def life(self) -> str:
        """The longest life of a function there, such as `15 min`, or `no end`."""
        seconds = self.platform.lifetime_s
        if math.isinf(seconds):
            return "no end"
        return f"{seconds / 60:g} min" if seconds < 7200 else f"{seconds / 3600:g} h"

    @property
    def billed_by(self) -> str:
        """The way in which time is billed there, such as `1 ms`, or `1 s, from 60 s, from 3 machines`, or `nothing`."""
        if not self.step_s:
            return "nothing"
        step = f"{1000 * self.step_s:g} ms" if self.step_s < 1 else f"{self.step_s:g} s"
        least = f"from {self.minimum_s:g} s" * bool(self.minimum_s)
        return ", ".join(filter(None, [step, least, f"from {self.instances:g} machines" * bool(self.instances)]))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        rules = {"step_s": self.step_s, "minimum_s": self.minimum_s, "instances": self.instances}
        life_s = self.platform.lifetime_s
        facts = {"start_s": self.platform.cold_start_s[0], "lifetime_s": life_s if math.isfinite(life_s) else None}
        return {"engine": self.engine, **facts, **rules, **self.estimate.to_dict()}


def alternatives(
    profile: Profile, objective: Objective, choice: Estimate, book: PriceBook, iprof: IProf | None
) -> Iterator[Alternative]:
    """Yield the choice on each platform, in the order of the presets. Platforms where it would not fit are left out.

    Args:
        choice: The candidate of the plan, which keeps its schedule, workers, batch, codec, algorithm and pattern.
    """
    chosen = choice.candidate
    space = replace(
        objective.space,
        workers=(chosen.workers, chosen.workers),
        schedules=(chosen.schedule,),
        batch_sizes=(chosen.batch_size,),
        codecs=(chosen.codec,),
        algorithms=(chosen.algorithm,),
        patterns=(chosen.pattern,),
    )
    no_place = (*PUBLISHED, "local") if objective.regions is not None else PUBLISHED
    names = [name for name in NAMES if name not in no_place]
    candidates = [one for name in names for one in _fitting(replace(space, platforms=(name,)), profile, objective)]
    there = replace(objective, space=space)
    found = Planner(profile, there, book, iprof, 1).estimates(candidates, lambda share: None)
    best = {chosen.platform.name: choice}
    for one in ranked(found, there):
        best.setdefault(one.candidate.platform.name, one)
    for name in filter(best.__contains__, names):
        times = [price for item, price in book.place(name).items() if item in BILLED and item not in _EACH]
        rules = ("step_s", "minimum_s", "minimum_count")
        yield Alternative(best[name], *(max((getattr(price, rule) for price in times), default=0.0) for rule in rules))


def _fitting(space: SearchSpace, profile: Profile, objective: Objective) -> list[Candidate]:
    """Return the candidates for which functions of the only platform have the memory. A job may be too large for all."""
    try:
        found = space.candidates(profile, to_target=objective.epochs is None)
    except SettingsError:
        return []
    return [
        one
        for one in found
        if not one.platform.memory_mb
        or HEADROOM * profile.function_mb(one.batch_size, one.workers, one.algorithm, codec=one.codec)
        <= one.platform.memory_mb
    ]


_EACH = ("invocation", "operation")
"""The items that are not billed by time."""
