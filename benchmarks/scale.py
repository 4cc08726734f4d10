"""Simulate runs of up to ten thousand workers on S3 Standard with its request limits, and measure the simulations.

    python benchmarks/scale.py

Each worker has a function of `lambda-arm`, and an update has 1 MB. A round is the difference of two runs over the
difference of their rounds, so that starts and ends do not count. All times but the seconds that a simulation took are
modelled, and are the same in every call.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from lambdaml.simulation import SimulationResult, simulate
from lambdaml.simulation.costs import assumed

COSTS = replace(assumed(), update_bytes=1_000_000)


def timed(**options: Any) -> tuple[SimulationResult, float]:
    """Simulate a run, and return it with the seconds of this process that it took."""
    began = time.process_time()
    run = simulate(exact=False, **options)
    return run, time.process_time() - began


def a_round(workers: int, pattern: str, few: int, many: int) -> None:
    options = {"workers": workers, "pattern": pattern, "schedule": "bsp", "costs": COSTS, "snapshot_every": 10**6}
    (short, _), (long, took_s) = (timed(**options, steps=steps) for steps in (few, many))
    round_s = (long.run.seconds - short.run.seconds) / (many - few)
    requests = (sum(long.run.requests.values()) - sum(short.run.requests.values())) / (many - few)
    print(f"{workers:7,} {pattern:9} {round_s:9.2f} s {requests:12,.0f} requests   {took_s / many:6.3f} s to simulate")


def asynchronous(pattern: str, updates: int) -> None:
    run, took_s = timed(workers=1000, pattern=pattern, schedule="asp", updates=updates, costs=COSTS)
    done, requests = run.run.updates, sum(run.run.requests.values())
    print(
        f"{pattern:9} {done:8,} updates, {done / run.run.seconds:7.2f} a second, {requests / done:8.1f} requests each, "
        f"staleness {run.run.staleness.mean:6.1f}, {run.commits:,} commits, {took_s:.1f} s to simulate",
        flush=True,
    )


def defaults(workers: int, updates: int, **options: Any) -> None:
    """Simulate as `lambdaml simulate` does by default, but for the workers, the updates and these options."""
    run, took_s = timed(workers=workers, updates=updates, **options)
    print(f"{workers:7,} workers, {run.run.updates:9,} updates: {took_s:6.2f} s to simulate", flush=True)


def main() -> None:
    print("a bsp round")
    for workers, pattern, few, many in (
        (100, "gather", 2, 5),
        (100, "tree:10", 5, 25),
        (1000, "scatter", 2, 4),
        (1000, "tree:32", 5, 25),
        (10_000, "tree:22", 3, 8),
        (10_000, "tree:100", 3, 8),
    ):
        a_round(workers, pattern, few, many)
    print("1,000 asp workers")
    for pattern in ("gather", "fold"):
        for updates in (4000,) if pattern == "gather" else (20_000, 100_000):
            asynchronous(pattern, updates)
    print("lambdaml simulate with its defaults")
    defaults(1000, 50_000)
    defaults(1000, 100_000)
    print("lambdaml simulate with the pattern that it names")
    defaults(1000, 100_000, pattern="tree:32")
    defaults(10_000, 50_000, pattern="tree:100")
    defaults(10_000, 100_000, pattern="tree:100")


if __name__ == "__main__":
    main()
