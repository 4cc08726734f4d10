"""Functions in several regions and over slow links: their times against plain arithmetic, and the bytes between regions."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest

from lambdaml.cost.billing.prices import PriceBook
from lambdaml.cost.billing.tariff import GB_BYTES, Quantities, Tariff
from lambdaml.errors import SettingsError
from lambdaml.simulation import Costs, SimulationResult, simulate
from lambdaml.simulation.regions import REGIONS, TCP_WINDOW_BYTES, Link, Placement, round_trip_s
from tests.lambdaml.simulation.test_virtual import in_world

SIZE = 4_000_000
LATENCY_S, BANDWIDTH = 0.040, 50e6
COSTS = Costs(step_s=1.0, encode_s=0.01, apply_s=0.02, apply_update_s=0.005, update_bytes=SIZE)
PLACE: dict[str, Any] = {"channel": "40ms:bandwidth=50MB/s", "platform": "local", "costs": COSTS, "workers": 3}


def run(steps: int = 10, **options: Any) -> SimulationResult:
    return simulate(steps=steps, **{**PLACE, "snapshot_every": 1000, **options})


def round_s(**options: Any) -> float:
    return (run(30, **options).run.seconds - run(10, **options).run.seconds) / 20


def least_round_s(links: list[Link], rounds: int = 50) -> float:
    """A round by a plain loop over its requests, if every function looked just when an update is there."""
    decided = [0.0 for _ in links]
    for _ in range(rounds):
        own, stands = [], []
        for begin, link in zip(decided, links, strict=True):
            computed = begin + COSTS.apply_s + len(links) * COSTS.apply_update_s + COSTS.step_s + COSTS.encode_s
            latency_s, per_s = (LATENCY_S + link.rtt_s) * link.times, min(BANDWIDTH, link.bytes_per_s) / link.times
            stands.append(computed + SIZE / per_s + latency_s / 2)
            own.append(computed + SIZE / per_s + latency_s)
        for reader, link in enumerate(links):
            latency_s, per_s = (LATENCY_S + link.rtt_s) * link.times, min(BANDWIDTH, link.bytes_per_s) / link.times
            others = [moment + latency_s / 2 + SIZE / per_s for writer, moment in enumerate(stands) if writer != reader]
            decided[reader] = max([own[reader], *others])
    return max(decided) / rounds


def test_a_request_takes_the_round_trip_more_and_its_bytes_the_slower_connection() -> None:
    async def play(world: Any) -> list[float]:
        moments = []
        for request in (world.store.put("a", b"x" * 10**6), world.store.get("a"), world.store.get("nothing")):
            before = world.now()
            await request
            moments.append(round(world.now() - before, 6))
        return moments

    def took(link: Link, **options: Any) -> list[float]:
        found: list[float] = in_world(play, "40ms:bandwidth=10MB/s", link=link, **options)[0]
        return found

    assert took(Link(0.1, 5e6)) == [0.34, 0.34, 0.14]
    assert took(Link(0.1, 50e6)) == [0.24, 0.24, 0.14], "the store's own connection is slower"
    assert took(Link(times=10.0)) == [1.4, 1.4, 0.4]
    assert took(Link(times=10.0), bytes_per_s=5e6) == [2.4, 2.4, 0.4], "the function's network is slower, too"
    assert took(Link()) == [0.14, 0.14, 0.04]


@pytest.mark.parametrize(
    ("options", "links"),
    [
        ({}, [Link()] * 3),
        ({"regions": "us-east-1:2,eu-west-1:1"}, [Link(), Link(), Link(0.07, 2**20 / 0.07)]),
        ({"regions": "us-east-1:1,sa-east-1:2", "bucket_region": "sa-east-1"}, [Link(0.115, 2**20 / 0.115), *[Link()] * 2]),
        ({"slow_link": "1:10"}, [Link(), Link(times=10.0), Link()]),
    ],
)  # fmt: skip
def test_a_round_takes_the_requests_of_the_farthest_function(options: dict[str, str], links: list[Link]) -> None:
    least, look_s = least_round_s(links), max((LATENCY_S + link.rtt_s) * link.times for link in links)
    assert least <= round_s(**options) <= least + look_s, "one look may come too early"


@pytest.mark.parametrize("link", [Link(), Link(0.175, 2**20 / 0.175), Link(times=3.0)])
def test_a_round_of_one_function_is_the_chain_of_its_requests(link: Link) -> None:
    options = {"slow_link": "0:3"} if link.times > 1 else {"regions": "ap-northeast-2:1", "bucket_region": "us-east-1"}
    found = round_s(workers=1, **(options if link != Link() else {}))
    assert found == pytest.approx(least_round_s([link]), abs=1e-3)


def test_functions_beside_the_bucket_need_no_regions() -> None:
    plain, there = run(), run(regions="eu-west-1:3")
    assert replace(there, wall_s=plain.wall_s) == plain
    assert not there.moved


def test_bytes_between_regions_are_what_far_functions_moved() -> None:
    rounds = 7
    found = run(rounds, regions="us-east-1:1,eu-west-1:1,ap-south-1:1", bucket_region="eu-west-1")
    assert set(found.moved) == {
        *(("us-east-1", "eu-west-1"), ("eu-west-1", "us-east-1")),
        *(("ap-south-1", "eu-west-1"), ("eu-west-1", "ap-south-1")),
    }
    for (out_of, _), moved in found.moved.items():
        updates = rounds * (2 if out_of == "eu-west-1" else 1)  # it reads the others' and writes its own
        assert updates * SIZE <= moved <= updates * SIZE * 1.01 + 20_000
    book = PriceBook.load()
    parts = Tariff(book, "s3-standard", "lambda-arm", regions=REGIONS).bill(Quantities.of(found)).parts()
    usd = sum(size / GB_BYTES * book[f"{pair[0]}/cross-region"].usd for pair, size in found.moved.items())
    assert parts["transfer"] == pytest.approx(usd)


def test_a_function_that_takes_over_is_in_the_same_region() -> None:
    found = run(40, regions="us-east-1:2,eu-west-1:1", platform="local:20", lease_s=5.0)
    assert found.invocations > 6
    assert found.moved["eu-west-1", "us-east-1"] >= 40 * SIZE


def test_the_table_has_a_round_trip_for_each_pair_of_regions() -> None:
    pairs = list(combinations(REGIONS, 2))
    assert all(0.02 <= round_trip_s(one, other) == round_trip_s(other, one) <= 0.33 for one, other in pairs)
    assert (round_trip_s("us-east-1", "us-west-1"), round_trip_s("sa-east-1", "ap-south-1")) == (0.060, 0.295)
    slowest = min(TCP_WINDOW_BYTES / round_trip_s(*pair) for pair in pairs)
    mean = sum(TCP_WINDOW_BYTES / round_trip_s(*pair) for pair in pairs) / len(pairs)
    assert (round(mean / 1e6, 1), round(slowest / 1e6, 1)) == (9.6, 3.2), "as the docstring of the window says"


def test_placements_that_cannot_be() -> None:
    for wrong in ("", "us-east-1:0,eu-west-1:3", "us-east-1:x", "us-east-1:-3"):
        with pytest.raises(SettingsError, match="write REGION:FUNCTIONS"):
            Placement.parse(3, wrong)
    with pytest.raises(SettingsError, match="closed form"):
        run(exact=False, slow_link="0:2")
    assert not Placement.parse(3) and Placement.parse(3, "us-east-1:3")
