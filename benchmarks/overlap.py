"""What `pipeline:D` saves, and what it costs: the time of a round in the virtual world, and the accuracy of digits.

    python benchmarks/overlap.py

Rounds are those of the real protocol, request by request, on a store of 40 ms a request: eight workers with a function each,
updates of 1 MB. The time of a round is the difference between runs of 30 and of 90 rounds, over 60. Accuracies are those
of real runs of examples/digits.py with four workers, the mean over seeds.
"""

from __future__ import annotations

import secrets
import statistics
from pathlib import Path

import lambdaml
from lambdaml.simulation.stub_replica import Costs

JOB = f"{Path(__file__).parents[1] / 'examples' / 'digits.py'}:Digits"
SCHEDULES = ("bsp", "pipeline:1", "pipeline:2")
SEEDS = range(3)


def round_s(schedule: str, pattern: str, step_s: float) -> float:
    """Return the seconds of a round."""
    costs = Costs(step_s=step_s, apply_s=0.005, update_bytes=10**6, snapshot_bytes=10**6)
    short, long = (
        lambdaml.simulate(
            workers=8, schedule=schedule, pattern=pattern, steps=steps, channel="40ms", platform="local", costs=costs
        ).run.seconds
        for steps in (30, 90)
    )
    return (long - short) / 60


def accuracy(schedule: str, rounds: int) -> float:
    """Return the mean accuracy after so many rounds."""

    def trained(seed: int) -> float:
        url = f"memory://{secrets.token_hex(6)}"
        result = lambdaml.train(JOB, url, workers=4, functions=1, steps=rounds, schedule=schedule, seed=seed)
        return float(result.metrics["accuracy"])

    return statistics.mean(trained(seed) for seed in SEEDS)


def main() -> None:
    print("| pattern | compute | " + " | ".join(SCHEDULES) + " |")
    print("|---|--:|" + "--:|" * len(SCHEDULES))
    for pattern in ("gather", "tree:4", "scatter"):
        for step_s in (0.05, 0.1, 0.3):
            times = [f"{1000 * round_s(schedule, pattern, step_s):.0f}" for schedule in SCHEDULES]
            print(f"| `{pattern}` | {1000 * step_s:.0f} | " + " | ".join(times) + " |", flush=True)
    print("\n| rounds | " + " | ".join(SCHEDULES) + " |")
    print("|--:|" + "--:|" * len(SCHEDULES))
    for rounds in (25, 50, 100, 200):
        print(
            f"| {rounds} | " + " | ".join(f"{accuracy(schedule, rounds):.3f}" for schedule in SCHEDULES) + " |",
            flush=True,
        )


if __name__ == "__main__":
    main()
