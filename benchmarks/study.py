"""Measure the time of the default staleness study, and how much faster it is than a loop over workers.

    python benchmarks/study.py [--quick | --speeds]

The loop is the study as one would first write it: a model and an optimizer of torch for each worker, and a list of the
updates under way (`tests/lambdaml/studies/staleness/loop.py`). Both compute the same iterations of the same settings,
with one thread, one after the other in the same process; the loop takes one setting at a time, since it can do nothing
else. The default study must take at most 5 minutes on 2 cores, and the ratio must be at least 5. `--quick` leaves out
the default study and computes fewer iterations. `--speeds` instead shows how a learning rate affects the comparison of
algorithms: four hidden layers at s = 32, with rates around the table's.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from lambdaml.studies.data import digits
from lambdaml.studies.staleness.engine import train_in_numpy
from lambdaml.studies.staleness.learning import GradientLearner
from lambdaml.studies.staleness.mlp import MlpProblem
from lambdaml.studies.staleness.plan import StudyPlan
from lambdaml.studies.staleness.rate_table import RATES
from lambdaml.studies.staleness.runner import run_study
from lambdaml.studies.staleness.table import bars
from lambdaml.traces.delays import Categorical
from lambdaml.training import numerics

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.lambdaml.studies.staleness.loop import LoopOverWorkers

WORKERS, SEEDS, WIDTH = 8, 3, 64
SPEEDS = (0.25, 0.5, 1.0, 2.0)


def main() -> None:
    numerics.prepare("reproducible")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--speeds", action="store_true")
    parser.add_argument("--iterations", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.speeds:
        speeds()
        return
    iterations = options.iterations or (60 if options.quick else 200)
    at_once(0, "sgd", 1)  # this loads the data
    print(f"{WORKERS} workers, {SEEDS} seeds, s = 8, {iterations} iterations, one thread; seconds")
    spent: list[tuple[float, float]] = []
    for depth, algorithm in ((0, "sgd"), (1, "adam"), (3, "momentum"), (6, "adam")):
        mine, loop = at_once(depth, algorithm, iterations), one_by_one(depth, algorithm, iterations)
        spent.append((mine, loop))
        print(
            f"{depth} hidden, {algorithm:8}  at once {mine:7.2f}  loop {loop:7.2f}  ratio {loop / mine:5.1f}",
            flush=True,
        )
    at_once_s, loop_s = (sum(column) for column in zip(*spent))
    print(f"all of these: at once {at_once_s:.2f}, loop {loop_s:.2f}, ratio {loop_s / at_once_s:.1f}")
    if not options.quick:
        default_study()


def at_once(depth: int, algorithm: str, iterations: int) -> float:
    """Return the seconds for all seeds."""
    seeds, name = list(range(SEEDS)), f"dnn{depth}" if depth else "mlr"
    began = time.perf_counter()
    learner = GradientLearner(
        MlpProblem(digits(), depth, WIDTH), algorithm, [RATES[name][algorithm]] * SEEDS, seeds, WORKERS, 32
    )
    train_in_numpy(learner, [Categorical(8)] * SEEDS, seeds, WORKERS, [2.0] * SEEDS, [iterations] * SEEDS)
    return time.perf_counter() - began


def one_by_one(depth: int, algorithm: str, iterations: int) -> float:
    """Return the seconds for all seeds, with quality measured as often."""
    widths, name = (64, *[WIDTH] * depth, 10), f"dnn{depth}" if depth else "mlr"
    began = time.perf_counter()
    for seed in range(SEEDS):
        loop = LoopOverWorkers(digits(), widths, algorithm, RATES[name][algorithm], Categorical(8), seed, WORKERS)
        due = 1
        for done in range(1, iterations + 1):
            loop.step()
            if done >= due:
                loop.accuracy()
                due = done + max(1, done // 50)
    return time.perf_counter() - began


def default_study() -> None:
    cores = min(2, os.cpu_count() or 1)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        rows = run_study(StudyPlan(), Path(folder), cores)
        took = time.perf_counter() - began
    print(f"default study: {len(rows)} settings, {sum(row.ran for row in rows):,} iterations of 8 workers")
    print(f"{took:.0f} s with {cores} processes (300 needed on 2 cores)")
    for bar in bars(rows):
        if bar.staleness in (0, 32):
            slower = "never" if bar.slower is None else f"{bar.slower:.2f}"
            print(f"{bar.model:5} {bar.algorithm:9} s={bar.staleness:2} {slower:>6} ({bar.met} of {bar.seeds})")


def speeds() -> None:
    """Print the iterations without staleness, and how many times more at s = 32, by rate, as medians over seeds."""
    seeds = list(range(SEEDS))

    def iterations(algorithm: str, rate: float, staleness: int, limits: list[int]) -> list[float]:
        learner = GradientLearner(MlpProblem(digits(), 4, WIDTH), algorithm, [rate] * SEEDS, seeds, WORKERS, 32)
        courses = train_in_numpy(learner, [Categorical(staleness)] * SEEDS, seeds, WORKERS, [0.92] * SEEDS, limits)
        return [course.iterations or math.inf for course in courses]

    print("| algorithm | " + " | ".join(f"rate x {factor:g}" for factor in SPEEDS) + " |\n|---|" + "---|" * len(SPEEDS))
    for algorithm, rate in RATES["dnn4"].items():
        cells = []
        for factor in SPEEDS:
            fresh = iterations(algorithm, factor * rate, 0, [5000] * SEEDS)
            stale = iterations(algorithm, factor * rate, 32, [int(10 * count) for count in fresh])
            slower = median(many / few for many, few in zip(stale, fresh))
            shown = f"x {slower:.1f}" if slower < math.inf else "never"
            cells.append(f"{factor * rate:g}: {median(fresh):.0f}, {shown}")
        print(f"| {algorithm} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
