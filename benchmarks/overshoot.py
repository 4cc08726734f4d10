"""Measure how far a run continues after the first snapshot that met its target.

    python benchmarks/overshoot.py
    python benchmarks/overshoot.py --evaluation-ms 200

The digits example runs until `accuracy>=0.95`, on a directory store, with four workers on two functions. Its steps take
milliseconds, so a late look for the request to stop costs many steps. `--evaluation-ms` makes each evaluation as slow
as that of a larger job. The steps at the first snapshot that met the target, and at the end, are printed for the median
run and for the worst.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from torch import nn

import lambdaml

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
from digits import Digits

JOB = f"{Path(__file__).resolve()}:SlowlyEvaluated"
TARGET = "accuracy>=0.95"
CONFIGURATIONS = [("bsp", 1), ("bsp", 4), ("bsp", 12), ("asp", 1), ("asp", 12)]
"""The schedules, each with the updates of each worker between snapshots."""


class SlowlyEvaluated(Digits):
    """The digits example with an evaluation that takes this many seconds longer."""

    def __init__(self, evaluation_s: float = 0.0, lr: float = 0.4) -> None:
        super().__init__(lr=lr)
        self.evaluation_s = evaluation_s

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        time.sleep(self.evaluation_s)
        return super().evaluate(model)


def once(schedule: str, every: int, evaluation_s: float, seed: int) -> tuple[int, int, float]:
    """Return the steps at the first snapshot that met the target, the steps at the end, and the seconds."""
    with tempfile.TemporaryDirectory() as folder:
        result = lambdaml.train(
            JOB,
            f"file://{folder}/run",
            schedule=schedule,
            target=TARGET,
            snapshot_every=every,
            functions=2,
            seed=seed,
            args={"evaluation_s": evaluation_s, "lr": 0.1 if schedule == "asp" else 0.4},
        )
        return result.version, lambdaml.Run(f"file://{folder}/run").summary().version, result.seconds


def main() -> None:
    """Run all configurations, in turns."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=5, help="of each configuration")
    parser.add_argument("--evaluation-ms", type=float, default=0.0, help="that an evaluation takes longer")
    asked = parser.parse_args()
    found: dict[tuple[str, int], list[tuple[int, int, float]]] = {way: [] for way in CONFIGURATIONS}
    for turn in range(asked.runs):
        for schedule, every in CONFIGURATIONS:
            found[schedule, every].append(once(schedule, every, asked.evaluation_ms / 1000, turn))
    print(
        f"{'schedule':9}{'snapshot every':>15}{'steps at first':>15}{'at the end':>12}{'ratio':>7}{'worst':>7}{'time':>8}"
    )
    for (schedule, every), runs in found.items():
        ratios = [end / first for first, end, _ in runs]
        first, end, seconds = (median(values) for values in zip(*runs, strict=True))
        print(f"{schedule:9}{every:15}{first:15.0f}{end:12.0f}{median(ratios):7.2f}{max(ratios):7.2f}{seconds:6.1f} s")


if __name__ == "__main__":
    main()
