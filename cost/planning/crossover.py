"""Where a codec that needs error feedback begins to be better than one that sends every number.

Fewer bytes save transfers, and cost steps. The saving grows with the size of updates, and what a step costs besides
grows with the latency of the store. So the question has two answers, both for one way to run the job: the size of a
gradient at the store as it is, and the latency of all requests at the gradient as it is. Nothing is extrapolated: the
candidates are estimated again with updates of another size (`CodecFacts.grown`), or with another latency, until bisection
has found where their order (`lambdaml.cost.planning.choice.ranked`) changes. It does so roughly with all codecs, and then
with the best two and longer simulations, as those of a plan's best candidates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from lambdaml.codecs import CODECS
from lambdaml.cost.billing.prices import PriceBook
from lambdaml.cost.planning.candidates import Candidate
from lambdaml.cost.planning.choice import ranked
from lambdaml.cost.planning.estimate import Estimate
from lambdaml.cost.planning.objective import Aim, Objective
from lambdaml.cost.planning.pilot import PLAIN
from lambdaml.cost.planning.planner import Planner, Progress
from lambdaml.cost.profiling.iprof import IProf
from lambdaml.cost.profiling.profile import Profile
from lambdaml.simulation.channel import Channel
from lambdaml.storage.latency import LatencyModel

SIZES_BYTES = (1e3, 256e6)
LATENCIES_S = (1e-4, 1.0)
"""The ranges that are looked at."""

ROUGHLY, PRECISELY = 2.0, 1.05
"""The factors within which a crossover is found, at first and in the end."""

SEEDS = 2
"""The longer simulations of each candidate."""

Side = Literal["from", "up to", "always", "never"]

_Order = Callable[[float, Sequence[str], bool], list[str]]


@dataclass(frozen=True, slots=True)
class Turn:
    """The values of one quantity at which a codec with error feedback is better.

    Attributes:
        side: Whether it is better from a value on, up to one, at all that were looked at, or at none.
        value: The value from which on, or up to which, it is better. It is None at `always` and `never`.
        codec: The codec that is better next to the value, or at `always` with the least one. It is None at `never`.
        other: The best codec without error feedback next to the value, or at `always` with the least one. It is None
            at `never`.
    """

    side: Side
    value: float | None = None
    codec: str | None = None
    other: str | None = None


@dataclass(frozen=True, slots=True)
class Crossover:
    """Where a codec with error feedback begins to be better.

    Attributes:
        candidate: The way to run the job, without its codec.
        minimise: The quantity by which codecs are compared, as in `Objective`.
        gradient_bytes: The size of the job's own gradient.
        size_bytes: The turn by the size of a gradient.
        latency_s: The turn by the latency of every request, in seconds.
    """

    candidate: str
    minimise: Aim
    gradient_bytes: int
    size_bytes: Turn
    latency_s: Turn

    def __str__(self) -> str:
        better = {"cost": "cheaper", "time": "quicker", "balanced": "better in time x cost"}[self.minimise]
        by_size = _said(self.size_bytes, better, "{} of gradient", "any size of gradient", _size)
        by_latency = _said(self.latency_s, better, "a latency of {}", "any latency", _latency)
        return f"{self.candidate}: {by_size}; with this job's {_size(self.gradient_bytes)}, {by_latency}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "sentence": str(self)}


def find_crossover(
    profile: Profile,
    objective: Objective,
    found: Sequence[Estimate],
    best: Estimate,
    book: PriceBook,
    iprof: IProf | None,
    progress: Progress,
) -> Crossover | None:
    """Return the crossover for the way of the best candidate.

    If that allows for no codec with error feedback, it is the first one that does.

    Args:
        found: All estimates of a plan, the best first.

    Returns:
        The crossover, or None if the plan compares no codecs of both kinds.
    """
    ways = [_way(one.candidate) for one in found if not one.obstacle and _lossy(one.candidate.codec)]
    if not ways:
        return None
    way = _way(best.candidate) if _way(best.candidate) in ways else ways[0]
    codecs = [one.candidate.codec for one in found if not one.obstacle and _way(one.candidate) == way]
    if all(map(_lossy, codecs)):
        return None
    size = profile.codecs[PLAIN].update_bytes
    free = replace(objective, deadline_s=math.inf, budget_usd=math.inf)
    as_it_is = Planner(profile, free, book, iprof, 1)

    def by_size(size_bytes: float, codecs: Sequence[str], precisely: bool) -> list[str]:
        planner = Planner(_grown(profile, size_bytes / size), free, book, iprof, 1)
        progress(1.0)
        return _order(planner, free, [replace(way, codec=codec) for codec in codecs], precisely)

    def by_latency(latency_s: float, codecs: Sequence[str], precisely: bool) -> list[str]:
        there = replace(way, channel=_even(way.channel, latency_s))
        progress(1.0)
        return _order(as_it_is, free, [replace(there, codec=codec) for codec in codecs], precisely)

    turns = _turn(by_size, codecs, SIZES_BYTES), _turn(by_latency, codecs, LATENCIES_S)
    return Crossover(", ".join(filter(None, str(way).split(", "))), objective.minimise, size, *turns)


def _way(candidate: Candidate) -> Candidate:
    return replace(candidate, codec="")


def _lossy(codec: str) -> bool:
    return CODECS.make(codec).feedback


def _grown(profile: Profile, times: float) -> Profile:
    """Return the profile with updates so many times as large. All else is as it was."""
    return replace(profile, codecs={spec: facts.grown(times) for spec, facts in profile.codecs.items()})


def _even(channel: Channel, latency_s: float) -> Channel:
    """Return the channel with the same latency for each request."""
    return replace(
        channel, model=LatencyModel((latency_s, latency_s), (latency_s, latency_s), channel.bandwidth_bytes_per_s)
    )


def _order(planner: Planner, objective: Objective, candidates: Sequence[Candidate], precisely: bool) -> list[str]:
    """Return the candidates' codecs, the best first, without those that get nowhere."""
    found = planner.refined(candidates, SEEDS) if precisely else planner.estimates(candidates, lambda share: None)
    return [one.candidate.codec for one in ranked(found, objective) if not one.obstacle]


def _turn(order: _Order, codecs: Sequence[str], within: tuple[float, float]) -> Turn:
    """Return where the order of codecs begins, or ceases, to have one with error feedback first.

    Args:
        order: Returns the order of these codecs at a value, the best first, roughly or precisely.
        within: The least and the greatest value.
    """
    (low, high), (at_low, at_high) = within, (order(value, codecs, False) for value in within)
    if _leads(at_low) == _leads(at_high):
        return Turn("always", None, at_low[0], _other(at_low)) if _leads(at_low) else Turn("never")
    falls = _leads(at_low)
    low, high = _bisected(lambda value: _leads(order(value, codecs, False)) == falls, low, high, ROUGHLY)
    near = low if falls else high
    leader, other = order(near, codecs, False)[0], _other(order(high if falls else low, codecs, False))
    low, high = max(within[0], low / ROUGHLY), min(within[1], high * ROUGHLY)
    low, high = _bisected(lambda value: _leads(order(value, [leader, other], True)) == falls, low, high, PRECISELY)
    return Turn("up to" if falls else "from", math.sqrt(low * high), leader, other)


def _bisected(as_at_low: Callable[[float], bool], low: float, high: float, precision: float) -> tuple[float, float]:
    """Return two values within this factor between which something changes that changes once between `low` and `high`."""
    while high / low > precision:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if as_at_low(middle) else (low, middle)
    return low, high


def _leads(codecs: Sequence[str]) -> bool:
    return bool(codecs) and _lossy(codecs[0])


def _other(codecs: Sequence[str]) -> str:
    return next((codec for codec in codecs if not _lossy(codec)), PLAIN)


def _said(turn: Turn, better: str, at: str, everywhere: str, show: Callable[[float], str]) -> str:
    if turn.side == "never":
        return f"no codec with error feedback is {better} than others at {everywhere}"
    what = f"{turn.codec} is {better} than {turn.other}"
    if turn.value is None:
        return f"{what} at {everywhere}"
    value = at.format(f"about {show(turn.value)}")
    return f"{what} from {value} on" if turn.side == "from" else f"{what} up to {value}"


def _size(size_bytes: float) -> str:
    return _scaled(size_bytes, ((1e6, "MB"), (1e3, "kB")))


def _latency(latency_s: float) -> str:
    return _scaled(latency_s, ((1.0, "s"), (1e-3, "ms")))


def _scaled(value: float, units: Sequence[tuple[float, str]]) -> str:
    size, unit = next((pair for pair in units if value >= pair[0]), units[-1])
    return f"{float(f'{value / size:.2g}'):g} {unit}"
