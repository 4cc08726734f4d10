"""What a round of each pattern takes in closed form: seconds, requests and bytes.

    route = Route(Channel.parse("s3-standard"), 78.6e6)
    taken = round_cost("tree:32", Traffic(100, 100, 1_000_000, 1_000_000), route)
    taken.seconds, taken.requests, taken.received_bytes

A round is a row of legs, one after the other. In a leg, functions make requests of one kind at the same time, and go on
when the last of those that they need has been answered. With c, the bandwidth of a connection, B, that of a function's
network, and b, the bytes that the busiest function moves in requests of s bytes, a leg takes

    L(n) + max(s / c, b / B)

L(n) is the expected latency of the slowest of the n requests that one function waits for, so L(1) is the mean latency. If
latencies do not vary, L(n) is the latency, and the sum is exact for functions that look for an object as soon as its put
was answered. If they vary, it is within 12 % of the mean of simulated rounds for up to 64 workers, apart from `tree:N`,
whose last leg readers wait for less. A store serves as many requests at once as its limit says for a second, and so many
in each second after that. Formulas below hold if each worker has a function of its own; S are the bytes of an update, D
those of the dense vector, and m is the least number with K^m >= N:

    gather      L(N) + S/c           + L(N-1) + (N-1) S/B
    scatter     L(N) + S/c           + L(N-1) + (N-1) S/(N B)
                + L(N) + D/(N c)     + L(N-1) + (N-1) D/(N B)
    tree:K      L(K) + S/c           + L(K-1) + (K-1) S/B
                + (m-1) (L(K) + D/c  + L(K-1) + (K-1) D/B)
                + L(1) + D/c         + L(N-1) + D/c
    fold        L(G) + S/c           + L(G-1) + (G-1) S/B
                + L(1)               + L(1) + D/c
                + L(N-1) + D/c

`fold` is for a commit of G updates, of which one function takes the steps, after it wrote the log entry. With `gather` in
such a run, the others read the entry, L(N-1), and the updates, L(G-1) + (G-1) S/B. No formula has the looks that come too
early; `misses` adds their requests.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from lambdaml.errors import SettingsError
from lambdaml.patterns import PATTERNS, Pattern
from lambdaml.simulation.channel import Channel
from lambdaml.simulation.stub_replica import HEADER_BYTES
from lambdaml.storage.latency import is_write

MISS_SHARE = 1 / 7
"""The looks that find nothing, over those that find something, to which poll timers tend; see
`lambdaml.worker.poll_timer.PollTimer`. Measured on a store of 40 ms: 0.118."""

ROW_BYTES, BLOCK_BYTES = 60, 64
"""The approximate bytes of an update's row in a log entry or in a sum, and of a slice besides its numbers."""

_QUANTILES = 512


@dataclass(frozen=True, slots=True)
class Route:
    """The way between functions and their store.

    Attributes:
        channel: The store, with its latency, its limits, and the bandwidth of a connection.
        bytes_per_s: The bandwidth of a function's network, each way.
    """

    channel: Channel
    bytes_per_s: float = math.inf


@dataclass(frozen=True, slots=True)
class Traffic:
    """What is exchanged in a round.

    Attributes:
        workers, functions: The number of workers, and of the functions that share them.
        update_bytes: The bytes of an encoded update.
        dense_bytes: The bytes of the dense vector, which is what a sum or a model has.
        add_s: The seconds in which a function checks an update and adds it up.
        needs: The updates that a commit waits for, in a run whose commits one function decides; None in rounds.
        compute_s: The seconds of a worker's compute for an update.
    """

    workers: int
    functions: int
    update_bytes: float
    dense_bytes: float
    add_s: float = 0.0
    needs: int | None = None
    compute_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Leg:
    """Requests of one kind that functions make at the same time.

    Attributes:
        op: The operation, as a meter names it.
        requests: Their number over all functions.
        waits_for: The number of them that one function waits for.
        at_once: The number of them that share the network of the busiest function.
        size_bytes: The bytes of each.
        adds: The updates that the busiest function then checks and adds up; a slice counts as its share of one.
    """

    op: str
    requests: float
    waits_for: float
    at_once: float
    size_bytes: float
    adds: float = 0.0

    def seconds(self, route: Route, add_s: float = 0.0) -> float:
        """Return the seconds from the first request to the last answer, and of the work on these."""
        limit_per_s = route.channel.limit_per_s(self.op)
        queued_s = max(0.0, self.requests / limit_per_s - 1) if limit_per_s else 0.0
        moved_s = max(self.size_bytes / route.channel.bandwidth_bytes_per_s, self.network_s(route))
        return slowest_s(route.channel, self.op, self.waits_for) + queued_s + moved_s + self.adds * add_s

    def network_s(self, route: Route) -> float:
        """Return the seconds for which the busiest function's network is taken up."""
        return self.at_once * self.size_bytes / route.bytes_per_s


@dataclass(frozen=True, slots=True)
class RoundCost:
    """What a round of a pattern takes, in which every worker's update gets into the model.

    Attributes:
        pattern: The pattern, with its arguments.
        seconds: The seconds besides compute, from the first put until every function has what it needs to go on.
        requests: The requests by kind, as a meter names them, without looks that find nothing.
        sent_bytes, received_bytes: The bytes that all functions send and receive.
    """

    pattern: str
    seconds: float
    requests: Mapping[str, float] = field(hash=False)
    sent_bytes: float
    received_bytes: float

    def misses(self, share: float = MISS_SHARE) -> RoundCost:
        """Return the same with the looks that find nothing, so many for each that finds something."""
        found = sum(self.requests.get(kind, 0.0) for kind in ("get", "get_range"))
        return replace(self, requests={**self.requests, "get_miss": share * found})


def round_cost(pattern: str, traffic: Traffic, route: Route) -> RoundCost:
    """Return what a round of a pattern takes.

    In a run whose commits one function decides, a commit takes the updates that arrive during the commit before it, but
    at least those that it needs. A round then is as many commits as have an update of each worker, and lasts until the
    busiest network and the store's limits have done their part, if that is later than the last leg's end.

    Raises:
        SettingsError: If there is no such pattern, or it has no formula.
    """
    legs_of = _formula(pattern)
    if traffic.needs is None:
        return _Legs(legs_of(traffic, traffic.workers), traffic, route).cost(pattern, 1.0)
    workers, entry_s, group = float(traffic.workers), slowest_s(route.channel, "create", 1), float(traffic.workers)
    for _ in range(8):  # the size of commits and the time of a round depend on each other
        legs = _Legs(legs_of(traffic, group), traffic, route)
        taken = legs.cost(pattern, workers / group)
        arriving = workers * max(entry_s, legs.busiest_s) / max(1e-9, traffic.compute_s + taken.seconds)
        group = min(workers, max(1.0, traffic.needs, arriving))
    return taken


def floor_s(traffic: Traffic, route: Route) -> float:
    """Return the least seconds that a round takes with any of the patterns."""
    return min(round_cost(pattern, traffic, route).seconds for pattern in variants(traffic))


def variants(traffic: Traffic) -> list[str]:
    """Return the patterns that may be the best for so many workers, `gather` first: trees of each power of two, and a star."""
    if traffic.needs is not None:
        return [name for name in ("gather", "fold") if name in PATTERNS.factories]
    workers = traffic.workers
    powers = {2**level for level in range(1, workers.bit_length()) if 2**level < workers}
    trees = [f"tree:{fan_in}" for fan_in in sorted({*powers, max(2, workers)})]
    return [name for name in ["gather", "scatter", *trees] if name.partition(":")[0] in PATTERNS.factories]


def slowest_s(channel: Channel, op: str, count: float) -> float:
    """Return the expected latency of the slowest of so many requests, or 0 for none."""
    return _slowest_s(channel, op, round(count, 1)) if count > 0 else 0.0


@lru_cache(maxsize=4096)
def _slowest_s(channel: Channel, op: str, count: float) -> float:
    """Return the mean over quantiles of the largest of `count` draws, which is a draw at the quantile u^(1/count)."""
    first, last = channel.latency_s(op, 0.01), channel.latency_s(op, 0.99)
    if first == last:
        return first
    units = ((np.arange(_QUANTILES) + 0.5) / _QUANTILES) ** (1 / max(count, 1.0))
    return float(np.mean([channel.latency_s(op, unit) for unit in units.tolist()]))


class _Legs:
    """The legs of a commit, and what they take together."""

    def __init__(self, legs: Sequence[Leg], traffic: Traffic, route: Route) -> None:
        self._legs, self._traffic = legs, traffic
        self.seconds = math.fsum(leg.seconds(route, traffic.add_s) for leg in legs if leg.waits_for)
        self.requests: dict[str, float] = {}
        for leg in legs:
            self.requests[leg.op] = self.requests.get(leg.op, 0.0) + leg.requests
        busy = [leg.network_s(route) + leg.adds * traffic.add_s for leg in legs]
        for limit_per_s, writes in ((route.channel.writes_per_s, True), (route.channel.reads_per_s, False)):
            if limit_per_s:
                busy.append(sum(count for op, count in self.requests.items() if is_write(op) == writes) / limit_per_s)
        self.busiest_s = max(busy)

    def cost(self, pattern: str, times: float) -> RoundCost:
        """Return what so many commits with these legs take that overlap, except where a network or the store is busy."""
        seconds = max(self.seconds, times * self.busiest_s - self._traffic.compute_s)
        requests = {op: times * count for op, count in self.requests.items()}
        moved = (math.fsum(times * leg.requests * leg.size_bytes for leg in self._legs if is_write(leg.op) == writes)
                 for writes in (True, False))  # fmt: skip
        return RoundCost(pattern, seconds, requests, *moved)


def _formula(pattern: str) -> Callable[[Traffic, float], list[Leg]]:
    """Return a function of the traffic and of the updates in a commit, which returns the legs of the commit."""
    made, name = PATTERNS.make(pattern), pattern.partition(":")[0]
    if name not in FORMULAS:
        raise SettingsError(f"pattern {name!r} cannot be planned, because no formula says what a round of it takes")
    return lambda traffic, group: FORMULAS[name](made, traffic, group)


# ---- The formulas.


def _gather(pattern: Pattern, traffic: Traffic, group: float) -> list[Leg]:
    """Return the legs of `gather`: N puts and N (F - 1) gets, beside the log entry, for which nobody waits.

    In a run whose commits one function decides, that function reads the updates and writes the log entry; then the others
    read this, and the updates.
    """
    workers, others, size = traffic.workers, traffic.functions - 1, traffic.update_bytes + HEADER_BYTES
    if traffic.needs is None:
        reads = workers - workers // traffic.functions
        found = Leg("get", workers * others, reads, reads, size, adds=workers)
        return [_puts(traffic, group), found, _entry(traffic, group)]
    reads_one = group * others / traffic.functions
    return [
        *_decided(traffic, group),
        Leg("get", others, others, 1, _entry(traffic, group).size_bytes),
        Leg("get", others * reads_one, others and reads_one, reads_one, size, adds=group),
    ]


def _scatter(pattern: Pattern, traffic: Traffic, group: float) -> list[Leg]:
    """Return the legs of `scatter`: with P = N slices, 2 N puts and 2 N (N - 1) gets beside the log entry.

    Whoever holds worker s N // P adds up slice s of all updates.
    """
    workers, functions, slices = traffic.workers, traffic.functions, pattern.slices(traffic.workers)
    adding = Counter(index * workers // slices % functions for index in range(slices))
    held = [len(range(function, workers, functions)) for function in range(functions)]
    reads = [count * (workers - held[function]) for function, count in adding.items()]
    most, others = max(adding.values()), slices - (min(adding.values()) if len(adding) == functions else 0)
    block = traffic.update_bytes / slices + BLOCK_BYTES
    piece = (traffic.dense_bytes + ROW_BYTES * workers) / slices + HEADER_BYTES
    return [
        _puts(traffic, group, slices * BLOCK_BYTES),
        Leg("get_range", sum(reads), max(reads), max(reads), block, adds=most * workers / slices),
        Leg("create", slices, slices, most, piece),
        Leg("get", slices * (functions - 1), others if functions > 1 else 0, others, piece),
        _entry(traffic, group),
    ]


def _tree(pattern: Pattern, traffic: Traffic, group: float) -> list[Leg]:
    """Return the legs of `tree:K`: N - 1 gets by those who add up and N - 1 of the root, beside N + N/K + N/K^2 ... puts.

    Whoever holds the first worker of a node makes it from its children, of which it need not read its own.
    """
    workers, functions, bracket = traffic.workers, traffic.functions, pattern.bracket(traffic.workers)
    assert bracket is not None
    size, total = traffic.update_bytes + HEADER_BYTES, traffic.dense_bytes + HEADER_BYTES + ROW_BYTES * workers
    legs = [replace(_puts(traffic, group), waits_for=min(bracket.group, workers))]
    children = np.arange(workers)
    for level in range(1, bracket.levels + 1):
        nodes = children // bracket.group
        made_by, lies_at = nodes * bracket.group**level % functions, children * bracket.group ** (level - 1) % functions
        reads = np.bincount(made_by[made_by != lies_at], minlength=1)
        most, fan_in = int(reads.max()), int(np.bincount(nodes).max())
        legs.append(Leg("get", int(reads.sum()), most, most, size, adds=fan_in))
        children, size = np.arange(nodes[-1] + 1), total
        makes = int(np.bincount(children * bracket.group**level % functions).max())
        legs.append(Leg("create", len(children), min(bracket.group, len(children)), makes, total))
    return [*legs, Leg("get", functions - 1, functions - 1, 1, total, adds=1), _entry(traffic, group)]


def _fold(pattern: Pattern, traffic: Traffic, group: float) -> list[Leg]:
    """Return the legs of `fold` for a commit of G updates: G + 2 puts, at most G gets by the function that decides, and
    one get of the model by each other function."""
    others, entry = traffic.functions - 1, _entry(traffic, group)
    model = traffic.dense_bytes + entry.size_bytes
    return [*_decided(traffic, group), Leg("create", 1, 1, 1, model), Leg("get", others, others, 1, model)]


FORMULAS: Mapping[str, Callable[[Pattern, Traffic, float], list[Leg]]] = {
    "gather": _gather,
    "scatter": _scatter,
    "tree": _tree,
    "fold": _fold,
}
"""The legs of a commit by pattern. A formula takes the pattern, what is exchanged, and the updates in the commit."""


def _puts(traffic: Traffic, group: float, more_bytes: float = 0.0) -> Leg:
    """Return the leg in which the updates of a commit are written."""
    hosted = -(-traffic.workers // traffic.functions) * group / traffic.workers
    return Leg("create", group, group, max(1.0, hosted), traffic.update_bytes + HEADER_BYTES + more_bytes)


def _entry(traffic: Traffic, group: float) -> Leg:
    """Return the log entry, for which nobody waits if every function decides."""
    return Leg("create", 1, 0, 1, HEADER_BYTES + ROW_BYTES * group)


def _decided(traffic: Traffic, group: float) -> list[Leg]:
    """Return the legs up to the log entry in a run whose commits one function decides."""
    reads = group * (1 - 1 / traffic.functions)
    size = traffic.update_bytes + HEADER_BYTES
    found = Leg("get", reads, reads, reads, size, adds=group)
    return [_puts(traffic, group), found, replace(_entry(traffic, group), waits_for=1)]
