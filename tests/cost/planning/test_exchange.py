"""The formulas of what a round takes, against a plain loop that makes every transfer, and against real runs' requests."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from statistics import fmean

import pytest

from lambdaml.cost.billing.prices import PriceBook
from lambdaml.cost.planning.exchange import (
    FORMULAS,
    MISS_SHARE,
    Leg,
    RoundCost,
    Route,
    Traffic,
    floor_s,
    round_cost,
    slowest_s,
    variants,
)
from lambdaml.errors import SettingsError
from lambdaml.patterns import PATTERNS
from lambdaml.simulation import simulate
from lambdaml.simulation.channel import Channel, Pipe
from lambdaml.simulation.stub_replica import Costs

EVEN = Channel.parse("40ms:bandwidth=85MB/s")
UNEVEN = replace(Channel.parse("s3-standard"), reads_per_s=None, writes_per_s=None)
LAMBDA = Route(EVEN, 78.6e6)


def traffic(workers: int, size: float = 1e6, functions: int | None = None, **more: float) -> Traffic:
    return Traffic(workers, functions or workers, size, size, **more)  # type: ignore[arg-type]


class Reference:
    """A round in which every function makes its requests one by one, in the order of time, over networks of its own.

    A function asks for an object as soon as its put was answered. Nothing is shared with the formulas but `Pipe`.
    """

    def __init__(self, workers: int, size: float, route: Route, seed: int = 0) -> None:
        self.workers, self.size, self.route, self.random = workers, size, route, random.Random(seed)
        self.up, self.down = ([Pipe(route.bytes_per_s) for _ in range(workers)] for _ in range(2))

    def put(self, function: int, now: float, size: float) -> float:
        channel = self.route.channel
        sent = self.up[function].finish(now, round(size), channel.bandwidth_bytes_per_s)
        return sent + channel.latency_s("create", self.random.random())

    def get_all(self, function: int, there: list[float], size: float) -> float:
        """Return when a function has read all these objects, each of which it asks for when it is there."""
        channel, ends = self.route.channel, [0.0]
        for answered in sorted(moment + channel.latency_s("get", self.random.random()) for moment in there):
            ends.append(self.down[function].finish(answered, round(size), channel.bandwidth_bytes_per_s))
        return max(ends)

    def gather(self) -> float:
        there = [self.put(worker, 0.0, self.size) for worker in range(self.workers)]
        return max(
            max(there[me], self.get_all(me, there[:me] + there[me + 1 :], self.size)) for me in range(self.workers)
        )

    def scatter(self) -> float:
        slice_ = self.size / self.workers
        there = [self.put(worker, 0.0, self.size) for worker in range(self.workers)]
        added = [self.get_all(me, there[:me] + there[me + 1 :], slice_) for me in range(self.workers)]
        pieces = [self.put(me, max(there[me], added[me]), slice_) for me in range(self.workers)]
        return max(self.get_all(me, pieces[:me] + pieces[me + 1 :], slice_) for me in range(self.workers))

    def tree(self, fan_in: int) -> float:
        nodes = {worker: self.put(worker, 0.0, self.size) for worker in range(self.workers)}
        step = 1
        while step == 1 or len(nodes) > 1:
            above = {}
            for first in range(0, self.workers, step * fan_in):
                children = [nodes[child] for child in range(first, first + step * fan_in, step) if child in nodes]
                added = max(children[0], self.get_all(first, children[1:], self.size))
                above[first] = self.put(first, added, self.size)
            nodes, step = above, step * fan_in
        return max(self.get_all(worker, [nodes[0]], self.size) for worker in range(1, self.workers))

    def decided(self) -> float:
        """Until the log entry stands, of a commit that takes one update of every worker."""
        there = [self.put(worker, 0.0, self.size) for worker in range(self.workers)]
        return self.put(0, max(there[0], self.get_all(0, there[1:], self.size)), 0)

    def fold(self) -> float:
        model = self.put(0, self.decided(), self.size)
        return max(self.get_all(worker, [model], self.size) for worker in range(1, self.workers))

    def logged(self) -> float:
        entry, ends = self.decided(), []
        for me in range(1, self.workers):
            found = self.get_all(me, [entry], 0)
            ends.append(self.get_all(me, [found] * (self.workers - 1), self.size))
        return max(ends)


Play = Callable[[Reference], float]
ROUNDS: list[tuple[str, Play]] = [
    ("gather", Reference.gather),
    ("scatter", Reference.scatter),
    ("tree:2", lambda reference: reference.tree(2)),
    ("tree:4", lambda reference: reference.tree(4)),
    ("tree:16", lambda reference: reference.tree(16)),
]
COMMITS: list[tuple[str, Play]] = [("gather", Reference.logged), ("fold", Reference.fold)]


@pytest.mark.parametrize("bytes_per_s", [78.6e6, 260e6])
@pytest.mark.parametrize("size", [1e4, 1e6, 1e8])
@pytest.mark.parametrize("pattern, play", ROUNDS)
def test_a_round_takes_what_every_transfer_in_it_takes(
    pattern: str, play: Play, size: float, bytes_per_s: float
) -> None:
    route = Route(EVEN, bytes_per_s)
    plain = play(Reference(16, size, route))
    assert round_cost(pattern, traffic(16, size), route).seconds == pytest.approx(
        plain, rel=0.002 if size > 1e5 else 0.02
    )


@pytest.mark.parametrize("pattern, play", COMMITS)
def test_a_commit_takes_what_every_transfer_in_it_takes(pattern: str, play: Play) -> None:
    plain = play(Reference(8, 1e7, LAMBDA))
    assert round_cost(pattern, traffic(8, 1e7, needs=8), LAMBDA).seconds == pytest.approx(plain, rel=0.002)


@pytest.mark.parametrize("workers", [4, 16, 64])
@pytest.mark.parametrize("pattern, play", [*ROUNDS[:4], ("tree:8", lambda reference: reference.tree(8))])
def test_where_latencies_vary_it_takes_their_mean_within_15_percent(pattern: str, play: Play, workers: int) -> None:
    route = Route(UNEVEN, 78.6e6)
    plain = fmean(play(Reference(workers, 1e5, route, seed)) for seed in range(100 if workers < 64 else 10))
    assert round_cost(pattern, traffic(workers, 1e5), route).seconds == pytest.approx(plain, rel=0.15)


def test_trees_whose_nodes_are_not_full_take_no_longer_than_their_formula_says() -> None:
    for workers in range(2, 20):
        for fan_in in (2, 3, 5):
            plain = Reference(workers, 1e7, LAMBDA).tree(fan_in)
            found = round_cost(f"tree:{fan_in}", traffic(workers, 1e7), LAMBDA).seconds
            assert plain * 0.999 < found < plain * 1.5


@pytest.mark.parametrize("pattern", ["gather", "scatter", "scatter:3", "tree:2", "tree:6"])
@pytest.mark.parametrize("functions", [6, 4])
def test_its_requests_are_those_of_the_meters(pattern: str, functions: int) -> None:
    """In rounds of the exact virtual world, without looks that find nothing."""
    counts = []
    for steps in (3, 9):
        costs = Costs(0.05, update_bytes=1000)
        given = {"channel": "5ms", "platform": "local", "steps": steps, "snapshot_every": 100}
        run = simulate(workers=6, functions=functions, pattern=pattern, costs=costs, exact=True, **given).run
        counts.append({kind: run.requests.get(kind, 0) for kind in ("create", "get", "get_range")})
    found = {kind: (counts[1][kind] - counts[0][kind]) / 6 for kind in counts[0]}
    said = round_cost(pattern, traffic(6, 1000, functions), Route(Channel.parse("5ms"))).requests
    assert found == pytest.approx({kind: said.get(kind, 0.0) for kind in found}, abs=0.01)


def test_requests_are_those_of_the_concept() -> None:
    creates, gets = {}, {}
    for pattern in ("gather", "scatter", "tree:50", "tree:8"):
        counts = round_cost(pattern, traffic(50), LAMBDA).requests
        creates[pattern], gets[pattern] = counts["create"] - 1, counts["get"] + counts.get("get_range", 0)
    assert creates == {"gather": 50, "scatter": 100, "tree:50": 51, "tree:8": 50 + 7 + 1}
    assert gets == {"gather": 50 * 49, "scatter": 2 * 50 * 49, "tree:50": 2 * 49, "tree:8": 2 * 49}


def test_fold_takes_two_puts_and_one_get_of_each_other_function_beside_the_updates() -> None:
    found = round_cost("fold", traffic(10, needs=10), LAMBDA).requests
    assert found == pytest.approx({"create": 10 + 2, "get": 9 + 9})


def test_bytes_are_those_of_whole_updates_slices_and_sums() -> None:
    exact = {
        "gather": (8, 56),
        "scatter": (8 + 8 * (1 / 8), 56 / 8 + 56 / 8),
        "tree:8": (8 + 1, 7 + 7),
        "tree:2": (8 + 4 + 2 + 1, 4 + 2 + 1 + 7),
    }
    for pattern, (sent, received) in exact.items():
        found = round_cost(pattern, traffic(8, 1e7), LAMBDA)
        assert (found.sent_bytes / 1e7, found.received_bytes / 1e7) == pytest.approx((sent, received), rel=1e-3)


def test_sums_are_dense_in_every_codec() -> None:
    sparse = Traffic(8, 8, 1e5, 1e7)
    assert round_cost("gather", sparse, LAMBDA).received_bytes < 1e7 < round_cost("tree:8", sparse, LAMBDA).sent_bytes
    assert round_cost("scatter", sparse, LAMBDA).received_bytes == pytest.approx(7e7 + 7e5, rel=0.01)


def test_functions_share_the_network_of_their_workers() -> None:
    four, eight = (round_cost("gather", traffic(8, 1e8, functions), LAMBDA) for functions in (4, 8))
    assert four.received_bytes == pytest.approx(8 * 3 * 1e8, rel=1e-4)
    assert four.seconds == pytest.approx(0.08 + 2 * 1e8 / 78.6e6 + 6 * 1e8 / 78.6e6, rel=1e-3)
    assert eight.seconds == pytest.approx(0.08 + 1e8 / 78.6e6 + 7 * 1e8 / 78.6e6, rel=1e-3)


def test_alone_nobody_reads() -> None:
    for pattern in variants(traffic(1)):
        assert not any(
            count for op, count in round_cost(pattern, traffic(1), LAMBDA).requests.items() if op != "create"
        )


def test_the_slowest_of_more_requests_is_slower() -> None:
    waits = [slowest_s(UNEVEN, "get", count) for count in (1, 2, 8, 64)]
    assert waits == sorted(waits) and UNEVEN.latency_s("get", 0.5) < waits[0] < 0.04
    assert slowest_s(EVEN, "get", 1) == slowest_s(EVEN, "get", 500) == 0.04 and slowest_s(EVEN, "get", 0) == 0.0


def test_a_store_serves_no_more_than_its_limit() -> None:
    limited = Route(Channel.parse("40ms:reads_per_s=1000,writes_per_s=500"), 1e9)
    gets = round_cost("gather", traffic(100, 1e3), limited)
    assert gets.seconds == pytest.approx(9900 / 1000, abs=0.2)
    assert round_cost("tree:100", traffic(100, 1e3), limited).seconds < 0.5
    burst = Leg("create", 700, 1, 1, 0.0)
    assert burst.seconds(limited) == pytest.approx(0.04 + 0.4) and replace(burst, requests=400).seconds(limited) == 0.04


def test_the_work_of_adding_up_is_shared_in_scatter() -> None:
    slow = traffic(8, 1e3, add_s=1.0)
    assert round_cost("gather", slow, LAMBDA).seconds == pytest.approx(8.1, abs=0.1)
    assert round_cost("scatter", slow, LAMBDA).seconds == pytest.approx(1.2, abs=0.1)


def test_commits_take_more_updates_where_more_arrive() -> None:
    route = Route(Channel.parse("s3-standard"), 78.6e6)
    few, many = (round_cost("fold", traffic(workers, 1e5, needs=1, compute_s=1.0), route) for workers in (4, 400))
    assert few.requests["create"] == pytest.approx(3 * 4, rel=0.05)
    assert many.requests["create"] < 1.2 * 400 and many.requests["get"] < 40 * 400
    assert round_cost("gather", traffic(400, 1e5, needs=1, compute_s=1.0), route).seconds > 15 * (many.seconds + 1.0)


def test_looks_that_miss_are_a_share_of_those_that_find() -> None:
    found = RoundCost("gather", 1.0, {"create": 5, "get": 12, "get_range": 2}, 0.0, 0.0)
    assert found.misses().requests["get_miss"] == pytest.approx(14 * MISS_SHARE)
    assert found.misses(0.0).requests["get_miss"] == 0.0


def test_a_scatter_of_50_workers_costs_at_most_0_0028_dollars_of_requests() -> None:
    put_usd, get_usd = (PriceBook.load()[f"s3-standard/{item}"].usd for item in ("put", "get"))

    def usd(pattern: str) -> float:
        counts = round_cost(pattern, traffic(50), LAMBDA).misses().requests
        return put_usd * counts["create"] + get_usd * sum(count for op, count in counts.items() if op != "create")

    assert 0.00245 < usd("scatter") <= 0.0028
    assert usd("tree:8") < 0.0004 and usd("tree:50") < 0.0004 and usd("gather") < 0.0015


def test_the_floor_is_the_least_over_all_patterns() -> None:
    for workers, size in ((4, 1e6), (50, 1e6), (50, 1e8), (1024, 1e4)):
        given = traffic(workers, size)
        assert floor_s(given, LAMBDA) == min(round_cost(name, given, LAMBDA).seconds for name in variants(given))
    assert variants(traffic(6))[:2] == ["gather", "scatter"] and variants(traffic(6))[-1] == "tree:6"
    assert variants(traffic(6, needs=1)) == ["gather", "fold"]


def test_every_pattern_has_a_formula() -> None:
    assert set(FORMULAS) == set(PATTERNS.factories)


def test_a_pattern_without_a_formula_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PATTERNS.factories, "ring", "lambdaml.patterns.gather:Gather")
    with pytest.raises(SettingsError, match="pattern 'ring' cannot be planned"):
        round_cost("ring", traffic(4), LAMBDA)
    with pytest.raises(SettingsError, match="no pattern 'rign'"):
        round_cost("rign", traffic(4), LAMBDA)
