"""The pattern to run with, and from which size of updates on another one would be better.

    choice = choose_pattern(RunOptions(workers=64), traffic, route, tariff)
    choice.pattern      # tree:8
    print(choice)       # pattern tree:8: a round takes about 0.31 s and $0.0002; below 180 kB gather would be better

The quickest round wins by the formulas of `lambdaml.cost.planning.exchange`; among those at most `PATTERN_TIE` slower, the cheapest
one does. The crossover is found by choosing again with updates of other sizes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from lambdaml.cost.billing.tariff import Quantities, Tariff
from lambdaml.cost.planning.exchange import FORMULAS, RoundCost, Route, Traffic, round_cost, slowest_s, variants
from lambdaml.errors import SettingsError
from lambdaml.options import RunOptions
from lambdaml.parts import Parts
from lambdaml.schedules import SCHEDULES, in_rounds

PLAINEST = "gather"
"""The pattern that goes with everything."""

PATTERN_TIE = 0.02
"""The share by which a round may take longer than the quickest one if it costs less."""

LOOKS_LATENCIES = {"gather": -0.4, "scatter": 1.0, "tree": 0.3}
"""What the timing of looks adds to the formula of a round of all workers, in latencies of the slowest of its reads: a look that reaches the store just when an
object exists saves a part of one, and several that wait for the latest object cost more. Measured in the virtual world for 4 to
8 workers, 1 to 10 MB, 20 to 80 ms and 78.6 and 260 MB/s, as the mean; see `benchmarks/patterns.py`."""

TURN_SIZES_BYTES = (1e3, 1e11)
"""The range of sizes of updates in which a crossover is looked for."""

MARKED = 1.1
"""The time of a round under `gather`, over that under another pattern, from which on a plan tries that one."""

_PRECISION = 1.005
_BILLED_ROUNDS = 10_000


@dataclass(frozen=True, slots=True)
class PatternTurn:
    """The size of updates at which another pattern becomes the better one.

    Attributes:
        size_bytes: The bytes of an update.
        below: Whether the other pattern is better below that size, and not above it.
        pattern: The other pattern.
    """

    size_bytes: float
    below: bool
    pattern: str


@dataclass(frozen=True, slots=True)
class PatternChoice:
    """The pattern to run with.

    Attributes:
        cost: The seconds, requests and bytes of its rounds.
        usd: The US dollars of a round: requests, and functions for as long as it takes.
        others: The other patterns that fit.
        turn: The crossover to another kind of pattern, or None if there is none among the sizes that were looked at.
    """

    cost: RoundCost
    usd: float
    others: tuple[str, ...]
    turn: PatternTurn | None

    @property
    def pattern(self) -> str:
        """The pattern, with its arguments."""
        return self.cost.pattern

    def __str__(self) -> str:
        said = f"pattern {self.pattern}: a round takes about {self.cost.seconds:.2g} s and ${self.usd:.2g}"
        if not self.others:
            return f"{said}; no other pattern fits this run"
        if self.turn is None:
            return f"{said}, the best for updates of any size"
        side = "below" if self.turn.below else "from"
        on = "" if self.turn.below else " on"
        return f"{said}; {side} {_size(self.turn.size_bytes)}{on} {self.turn.pattern} would be better"


def possible_patterns(asked: RunOptions, traffic: Traffic) -> list[str]:
    """Return the patterns with which a run of these options can be made, `gather` first.

    A bracket that was asked for counts, whatever pattern the options name.

    Raises:
        SettingsError: If the rest of the options makes no sense.
    """
    Parts.of(replace(asked, pattern=PLAINEST))
    return [pattern for pattern in variants(traffic) if pattern == PLAINEST or _fits(asked, pattern)]


def traffic_of(
    asked: RunOptions,
    functions: int,
    update_bytes: float,
    dense_bytes: float,
    add_s: float = 0.0,
    compute_s: float = 0.0,
) -> Traffic:
    """Return what is exchanged in a round of a run with these options.

    Args:
        functions: The number of functions that share the workers.
        update_bytes, dense_bytes: The bytes of an encoded update, and of the dense vector.
        add_s: The seconds in which a function checks an update and adds it up.
        compute_s: The seconds of a worker's compute for an update.
    """
    schedule = SCHEDULES.make(asked.schedule)
    needs = None if in_rounds(schedule, asked.workers) else schedule.needs(asked.workers)
    return Traffic(asked.workers, functions, update_bytes, dense_bytes, add_s, needs, compute_s)


def choose_pattern(asked: RunOptions, traffic: Traffic, route: Route, tariff: Tariff) -> PatternChoice:
    """Return the pattern for a run with these options.

    Raises:
        SettingsError: If the options make no sense, with whatever pattern.
    """
    patterns = possible_patterns(asked, traffic)
    best = _best(patterns, traffic, route, tariff)
    others = tuple(pattern for pattern in patterns if pattern != best.pattern)
    turn = _turn(best.pattern, patterns, traffic, route, tariff) if others else None
    return PatternChoice(best, round_usd(best, traffic, tariff), others, turn)


@lru_cache(maxsize=4096)
def quicker_patterns(
    schedule: str,
    workers: int,
    algorithm: str,
    codec: str,
    functions: int,
    update_bytes: float,
    dense_bytes: float,
    add_s: float,
    compute_s: float,
    route: Route,
) -> list[str]:
    """Return `gather`, and the pattern whose rounds with their compute are the quickest if they are markedly quicker.

    Args:
        functions, update_bytes, dense_bytes, add_s, compute_s: The arguments of `traffic_of`.
    """
    asked = RunOptions(schedule=schedule, workers=workers, algorithm=algorithm, codec=codec)
    traffic = traffic_of(asked, functions, update_bytes, dense_bytes, add_s, compute_s)
    found = [expected_cost(pattern, traffic, route) for pattern in possible_patterns(asked, traffic)]
    best, plain = min(found, key=lambda cost: cost.seconds), found[0]
    if plain.seconds + compute_s > MARKED * (best.seconds + compute_s):
        return [PLAINEST, best.pattern]
    return [PLAINEST]


def expected_cost(pattern: str, traffic: Traffic, route: Route) -> RoundCost:
    """Return what a round of a pattern takes, with what the timing of looks adds to the formula."""
    cost = round_cost(pattern, traffic, route)
    if traffic.needs is not None:
        return cost
    looks_s = LOOKS_LATENCIES.get(_kind(pattern), 0.0) * slowest_s(route.channel, "get", traffic.workers)
    return replace(cost, seconds=max(0.0, cost.seconds + looks_s))


def round_usd(cost: RoundCost, traffic: Traffic, tariff: Tariff) -> float:
    """Return the US dollars of a round: its requests, looks that find nothing included, and its functions' seconds.

    Seconds of compute are not in it, because they are the same with every pattern.
    """
    cost = cost.misses()
    bill = tariff.bill(
        Quantities(
            [_BILLED_ROUNDS * cost.seconds] * traffic.functions,
            {kind: round(_BILLED_ROUNDS * count) for kind, count in cost.requests.items()},
            round(_BILLED_ROUNDS * cost.sent_bytes),
            round(_BILLED_ROUNDS * cost.received_bytes),
            wall_s=_BILLED_ROUNDS * cost.seconds,
        )
    )
    return bill.usd / _BILLED_ROUNDS


def _fits(asked: RunOptions, pattern: str) -> bool:
    try:
        Parts.of(replace(asked, pattern=pattern))
    except SettingsError:
        return False
    return _kind(pattern) in FORMULAS


def _best(patterns: Sequence[str], traffic: Traffic, route: Route, tariff: Tariff) -> RoundCost:
    found = [expected_cost(pattern, traffic, route) for pattern in patterns]
    within_s = (1 + PATTERN_TIE) * min(cost.seconds for cost in found)
    return min((cost for cost in found if cost.seconds <= within_s), key=lambda one: round_usd(one, traffic, tariff))


def _turn(best: str, patterns: Sequence[str], traffic: Traffic, route: Route, tariff: Tariff) -> PatternTurn | None:
    """Return where another kind of pattern becomes the best: at larger updates for `gather`, and at smaller ones for
    the others, if there is such a size."""

    def at(size_bytes: float) -> str:
        times = size_bytes / traffic.update_bytes
        dense_bytes, add_s = times * traffic.dense_bytes, times * traffic.add_s
        sized = replace(traffic, update_bytes=size_bytes, dense_bytes=dense_bytes, add_s=add_s)
        return _best(patterns, sized, route, tariff).pattern

    near = max(1.0, traffic.update_bytes)
    for below in (False, True) if best == PLAINEST else (True, False):
        far = TURN_SIZES_BYTES[0] if below else TURN_SIZES_BYTES[1]
        if (far < near) == below and _kind(at(far)) != _kind(best):
            same, other = near, far
            while max(same / other, other / same) > _PRECISION:
                middle = math.sqrt(same * other)
                same, other = (middle, other) if _kind(at(middle)) == _kind(best) else (same, middle)
            return PatternTurn(math.sqrt(same * other), below, at(other))
    return None


def _kind(pattern: str) -> str:
    return pattern.partition(":")[0]


def _size(size_bytes: float) -> str:
    unit, name = next((pair for pair in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if size_bytes >= pair[0]), (1.0, "B"))
    return f"{float(f'{size_bytes / unit:.2g}'):g} {name}"
