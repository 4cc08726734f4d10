"""Measure what error feedback saves: samples under a quorum that discards late updates, and accuracy under topk.

    python benchmarks/feedback.py quorum
    python benchmarks/feedback.py topk

`quorum`: examples/digits.py in the virtual world, with real gradients, so that the same updates come late each time.
Eight functions of one worker each on S3's latency, whose steps take 0.1 s times a lognormal factor; the first four
updates of a version make a step, and the others are discarded. With error feedback a worker sends the discarded ones
again with its next. Counted are the samples of all updates that had a fate when the test accuracy was first reached,
used or not.

`topk` is check B2: eight workers, batches of 32, 600 steps with SGD of 0.1, a network with two hidden layers of 128. A
thousandth or a hundredth of the numbers is sent, with and without what was left out before, or numbers drawn at random.
Needed: at most one percentage point from `fp32` with error feedback, at least five points less without, and at least 15
points less at step 100 for random numbers. By default it is measured without momentum and with the 0.9 of the paper
(arXiv 1911.08772), which acts on the mean of the updates.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from statistics import median

from torch import nn

import lambdaml
from lambdaml.log import keys, wire
from lambdaml.log.reader import RunReader
from lambdaml.options import RunOptions
from lambdaml.simulation.channel import Channel
from lambdaml.simulation.engine import VirtualRun
from lambdaml.simulation.platform import Platform
from lambdaml.simulation.real import Timed, first_snapshot
from lambdaml.simulation.stragglers import STRAGGLERS
from lambdaml.simulation.stub_replica import Costs
from lambdaml.traces.attribution import trace_rows
from lambdaml.training.asked import resolve_job, settings_for
from lambdaml.training.evaluation import Evaluator
from lambdaml.training.one_thread import OneThread

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import digits

JOB = f"{Path(__file__).parents[1] / 'examples' / 'digits.py'}:Digits"
WORKERS, STEPS = 8, 60
COSTS = Costs(step_s=0.1, encode_s=0.001, apply_s=0.001, apply_update_s=0.0002)
METHODS = (("bsp", 0.0), ("quorum:4", 0.0), ("quorum:4", 1.0))
SPARSE = (
    ("fp32", 0.0),
    ("topk:0.001", 1.0),
    ("topk:0.01", 1.0),
    ("topk:0.001", 0.0),
    ("randomk:0.001", 1.0),
    ("gaussiank:0.001", 1.0),
    ("gaussiank:0.001,rule=paper", 1.0),
)


class Deep(digits.Digits):
    """The network of the check, with 26,122 parameters."""

    def __init__(self, lr: float = 0.1, momentum: float = 0.0) -> None:
        super().__init__(lr, momentum)

    def model(self) -> nn.Module:
        hidden = [nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()]
        return nn.Sequential(*hidden, nn.Linear(128, 10))


def accuracies(run: RunReader) -> dict[int, float]:
    """Return the test accuracy of every version that was evaluated."""
    found = {}
    for info in run.store.list(keys.METRICS):
        data = run.store.get(info.key)
        assert data is not None
        found[keys.number(info.key)] = wire.load_json(data, info.key)["metrics"]["accuracy"]
    return found


def quorum(schedule: str, feedback: float, rate: float, seed: int, target: float, stragglers: str) -> float:
    """Return the samples computed until the accuracy is reached, or infinity if it never is."""
    with OneThread() as compute:
        return compute.submit(_quorum, schedule, feedback, rate, seed, target, stragglers).result()


def _quorum(schedule: str, feedback: float, rate: float, seed: int, target: float, stragglers: str) -> float:
    job_settings, job = resolve_job(JOB, {"lr": rate})
    options = RunOptions(
        workers=WORKERS, schedule=schedule, error_feedback=feedback, steps=STEPS, seed=seed, snapshot_every=1
    )
    settings = settings_for(job, job_settings, options).model_copy(update={"token": "simulated"})
    virtual = VirtualRun(
        settings,
        WORKERS,
        COSTS,
        Channel.parse("s3-standard"),
        Platform.parse("lambda-arm"),
        STRAGGLERS.make(stragglers),
        seed,
        machine=lambda virtual, world: Timed(job, settings, COSTS, world.charge, world.now),
        start=first_snapshot(job, settings),
    )
    virtual.run()
    run = virtual.run_of()
    Evaluator(run.store, settings, job).catch_up()
    met = [version for version, accuracy in accuracies(run).items() if accuracy >= target]
    if not met:
        return math.inf
    rows = trace_rows(run)
    last = max(row["commit"] for row in rows if row["version"] is not None and row["version"] <= min(met))
    return float(sum(row["samples"] for row in rows if row["commit"] <= last))


def sparse(momentum: float, codec: str, feedback: float, seed: int) -> tuple[float, float]:
    """Return the accuracies at the 100th step and at the last."""
    url = f"memory://{codec}-{momentum}-{feedback}-{seed}"
    lambdaml.train(
        Deep(momentum=momentum),
        url,
        workers=WORKERS,
        functions=1,
        engine="inline",
        codec=codec,
        error_feedback=feedback,
        seed=seed,
        steps=600,
        snapshot_every=100,
    )
    run = lambdaml.Run(url)
    found = accuracies(run)
    run.store.delete([info.key for info in run.store.list("")])
    return found[100], found[600]


def measure_quorum(pool: ProcessPoolExecutor, asked: argparse.Namespace) -> None:
    print(f"digits, {WORKERS} workers, {asked.stragglers}: samples computed until accuracy {asked.target}")
    print("| step size | schedule | error feedback | median | each seed |\n|---|---|---|---|---|", flush=True)
    for rate, (schedule, feedback) in product(asked.rates, METHODS):
        work = [(schedule, feedback, rate, seed, asked.target, asked.stragglers) for seed in range(asked.seeds)]
        found = list(pool.map(quorum, *zip(*work, strict=True)))
        each = ", ".join(f"{count:.0f}" for count in found)
        print(f"| {rate:g} | `{schedule}` | {feedback:g} | **{median(found):.0f}** | {each} |", flush=True)


def measure_sparse(pool: ProcessPoolExecutor, asked: argparse.Namespace) -> None:
    methods = [(momentum, *one) for momentum in asked.momentum for one in SPARSE]
    work = [(*method, seed) for method in methods for seed in range(asked.seeds)]
    found = list(pool.map(sparse, *zip(*work, strict=True)))
    print("| momentum | codec | error feedback | accuracy at step 100, median | at step 600, median | each seed |")
    print("|---|---|---|---|---|---|")
    for number, (momentum, codec, feedback) in enumerate(methods):
        mine: Sequence[tuple[float, float]] = found[number * asked.seeds : (number + 1) * asked.seeds]
        early, late = (median(one[place] for one in mine) for place in (0, 1))
        each = ", ".join(f"{one[1]:.3f}" for one in mine)
        print(f"| {momentum:g} | `{codec}` | {feedback:g} | {early:.3f} | **{late:.3f}** | {each} |")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", nargs="?", choices=("quorum", "topk"), help="one of them; both by default")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--target", type=float, default=0.95)
    parser.add_argument("--stragglers", default="lognormal:0.5")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.4, 0.8, 1.6])
    parser.add_argument("--momentum", type=float, nargs="+", default=[0.0, 0.9], help="those of topk")
    asked = parser.parse_args()
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn")) as pool:
        if asked.what != "topk":
            measure_quorum(pool, asked)
        if asked.what != "quorum":
            measure_sparse(pool, asked)
    print(f"\n{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
