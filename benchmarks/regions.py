"""Simulates rounds of functions that are spread over regions of AWS, around one bucket in one of them.

    python benchmarks/regions.py

Five functions of lambda-arm train with bsp over s3-standard, request by request, with a gradient of 0.1 s. A round's seconds
and dollars are the difference of a longer and a shorter run, divided by that of their rounds, means over five seeds. Leases last
300 s, since a function that moves 100 MB over a far link is silent for longer than the 30 s that are usual. The floor is what
the farthest function cannot do without: its update travels to the bucket and to a function beside it, or the other way.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import mean
from typing import NamedTuple

import lambdaml
from lambdaml.cost.billing.tariff import Quantities, Tariff
from lambdaml.simulation.channel import Channel
from lambdaml.simulation.costs import assumed
from lambdaml.simulation.regions import REGIONS, Placement

SEEDS, FUNCTIONS = range(5), 5
ROUNDS = {1_000_000: (20, 60), 100_000_000: (2, 4)}
"""The rounds of the two runs, by the bytes of an update. The longest run ends before Lambda's 900 s."""

PLACES = {
    "one region": {},
    "one region, one link 10 times as slow": {"slow_link": "3:10"},
    "Virginia 3, California 2": {"regions": "us-east-1:3,us-west-1:2"},
    "Virginia, Ireland, Tokyo, Singapore, São Paulo": {
        "regions": "us-east-1:1,eu-west-1:1,ap-northeast-1:1,ap-southeast-1:1,sa-east-1:1"
    },
    "the same, bucket in Tokyo": {
        "regions": "us-east-1:1,eu-west-1:1,ap-northeast-1:1,ap-southeast-1:1,sa-east-1:1",
        "bucket_region": "ap-northeast-1",
    },
    "Singapore 3, São Paulo 2": {"regions": "ap-southeast-1:3,sa-east-1:2"},
}


class Round(NamedTuple):
    """The seconds and the US dollars of a round, and the part of the dollars that transfers between regions have."""

    seconds: float
    usd: float
    transfer_usd: float


def round_of(size_bytes: int, pattern: str, place: dict[str, str]) -> Round:
    """Return the mean round of five functions whose updates have this size."""
    tariff = Tariff(lambdaml.prices(), "s3-standard", "lambda-arm", regions=REGIONS)
    costs = replace(assumed(parameters=size_bytes // 4), step_s=0.1)
    rounds = []
    for seed in SEEDS:
        found = []
        for steps in ROUNDS[size_bytes]:
            options = {
                "pattern": pattern,
                "costs": costs,
                "seed": seed,
                "snapshot_every": 10**6,
                "lease_s": 300.0,
                **place,
            }
            result = lambdaml.simulate(workers=FUNCTIONS, steps=steps, **options)
            bill = tariff.bill(Quantities.of(result))
            found.append((result.run.seconds, bill.usd, bill.parts()["transfer"]))
        short, long = found
        fewer, more = ROUNDS[size_bytes]
        rounds.append([(after - before) / (more - fewer) for before, after in zip(short, long, strict=True)])
    return Round(*map(mean, zip(*rounds, strict=True)))


def floor_s(size_bytes: int, place: dict[str, str]) -> float:
    """Return the least seconds of a round: a gradient, the slowest function's put, and a get of it or by it."""
    channel, placement = Channel.parse("s3-standard"), Placement.parse(FUNCTIONS, **place)
    links = [placement.link(function) for function in range(FUNCTIONS)]
    write, read = (
        sorted(
            link.latency_s(channel.latency_s(kind, 0.5)) / 2
            + size_bytes / link.connection_bytes_per_s(channel.bandwidth_bytes_per_s)
            for link in links
        )
        for kind in ("create", "get")
    )
    return 0.1 + max(write[-1] + read[0], write[0] + read[-1])


def main() -> None:
    for size_bytes in ROUNDS:
        print(
            f"\n{size_bytes / 1e6:g} MB: seconds of a round with gather and scatter, the floor, and USD of 1,000 rounds"
        )
        for name, place in PLACES.items():
            gather, scatter = (round_of(size_bytes, pattern, place) for pattern in ("gather", "scatter"))
            dollars = [f"{1000 * one.usd:.2f} (transfer {1000 * one.transfer_usd:.2f})" for one in (gather, scatter)]
            times = f"{gather.seconds:.2f} | {scatter.seconds:.2f} | {floor_s(size_bytes, place):.2f}"
            print(f"| {name} | {times} | {' | '.join(dollars)} |")


if __name__ == "__main__":
    main()
