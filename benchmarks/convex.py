"""Compare ADMM with gradients and with model averaging on convex models: the rounds to a minimum, and what they take.

    python benchmarks/convex.py
    python benchmarks/convex.py --task "logistic, dense" --accuracy 1e-4

Eight workers train the jobs of `lambdaml.jobs.linear` on generated data, with `bsp`, until the objective is within 0.1 % of
the minimum that scikit-learn finds. `admm` takes 50 local steps on whole shares with the job's own learning rate, and has the
best of three rho. `gradient`, once with batches of 32 and once with whole shares, has the best of five learning rates and at
most ten times ADMM's rounds; `local:epochs=1` (model averaging) the best of three, and at most five times those rounds. All rounds are computed; their requests, bytes and
dollars are those of as many simulated rounds of 8 functions on AWS Lambda (1,769 MB) with S3.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression as SkLogistic
from sklearn.linear_model import Ridge as SkRidge

import lambdaml
from lambdaml.cost.billing.tariff import Quantities
from lambdaml.jobs.data import product
from lambdaml.jobs.linear import LinearJob, LogisticRegression, Ridge
from lambdaml.log.commits import averaged
from lambdaml.options import RunOptions
from lambdaml.settings import JobSettings
from lambdaml.simulation.stub_replica import Costs
from lambdaml.training.asked import settings_for
from lambdaml.training.replica import Replica

WORKERS, WHOLE, MOST = 8, 10**6, 60
RATES = (0.1, 0.3, 1.0, 3.0, 10.0)
RHOS = (0.01, 0.03, 0.1)
PLATFORM, CHANNEL = "lambda-arm:1769", "s3-standard"
GRADIENT_S = 1e-4
"""The seconds that the gradient of a batch takes in simulations."""

DENSE, SPARSE = "generated:2000,20", "generated:2000,100,density=0.05"
TASKS: dict[str, Callable[..., LinearJob]] = {
    "logistic, dense": lambda **how: LogisticRegression(DENSE, **how),
    "logistic, sparse": lambda **how: LogisticRegression(SPARSE, C=0.1, **how),
    "ridge, sparse": lambda **how: Ridge(SPARSE, **how),
}


@dataclass(frozen=True, slots=True)
class Best:
    """The quickest way of an algorithm to the minimum.

    Attributes:
        rounds: The number of rounds; None if no way arrived.
        algorithm: The algorithm, with its arguments.
        how: The job's arguments.
        most: The number of rounds that each way had at most.
    """

    rounds: int | None
    algorithm: str
    how: dict[str, float]
    most: int


def minimum(job: LinearJob) -> float:
    """Return the least objective, where scikit-learn finds it."""
    x = product(job.table.rows, torch.eye(job.table.features)).double().numpy()
    made = {
        LogisticRegression: lambda: SkLogistic(C=job.C, tol=1e-8, max_iter=10_000),
        Ridge: lambda: SkRidge(alpha=job.alpha),
    }[type(job)]()
    made.fit(x, job.table.targets.numpy())
    model = job.model()
    weight, bias = np.atleast_2d(made.coef_).T, np.atleast_1d(made.intercept_)
    model.load_state_dict({"weight": torch.tensor(weight), "bias": torch.tensor(bias)})
    return job.evaluate(model)["objective"]


def rounds_to(job: LinearJob, algorithm: str, goal: float, most: int) -> int | None:
    """Return the number of rounds after which the objective is at most `goal`; None if `most` rounds do not suffice."""
    asked = RunOptions(workers=WORKERS, algorithm=algorithm, steps=most)
    replica = Replica(job, settings_for(job, JobSettings(spec="benchmark"), asked))
    for seq in range(most):
        updates = [replica.update(worker, seq) for worker in range(WORKERS)]
        if any(update.fault for update in updates):
            return None
        replica.apply(averaged(seq, seq, updates), {update.id: update for update in updates})
        with torch.no_grad():
            if job.evaluate(replica.model)["objective"] <= goal:
                return seq + 1
    return None


def best_of(make: Callable[..., LinearJob], ways: list[tuple[str, dict[str, float]]], goal: float, most: int) -> Best:
    """Try several ways, each for no more rounds than the best one took so far."""
    best = Best(None, *ways[0], most)
    for algorithm, how in ways:
        if rounds := rounds_to(make(**how), algorithm, goal, (best.rounds or most + 1) - 1):
            best = Best(rounds, algorithm, how, most)
    return best


def spent(best: Best, job: LinearJob) -> str:
    """Return the simulated requests, bytes and dollars of the rounds."""
    assert best.rounds is not None
    parameters = sum(parameter.numel() for parameter in job.model().parameters())
    per_epoch = -(-len(job.table) // WORKERS // 32)
    costs = Costs(step_s=GRADIENT_S, update_bytes=4 * parameters, snapshot_bytes=4 * parameters)
    algorithm = best.algorithm.replace("epochs=1", str(per_epoch))
    how = {"workers": WORKERS, "steps": best.rounds, "algorithm": algorithm, "snapshot_every": best.rounds}
    found = lambdaml.simulate(platform=PLATFORM, channel=CHANNEL, costs=costs, **how)
    usd = lambdaml.Tariff(lambdaml.prices(), CHANNEL, PLATFORM).bill(Quantities.of(found)).usd
    return f"{sum(found.run.requests.values()):,} | {sum(found.run.bytes.values()) / 1e6:.2f} MB | ${usd:.5f}"


def compare(name: str, accuracy: float) -> None:
    """Print the rows of one task."""
    make = TASKS[name]
    least = minimum(make())
    goal = least * (1 + accuracy)
    ways = {
        "admm": [(f"admm:{rho},steps=50", {"batch_size": WHOLE}) for rho in RHOS],
        "gradient, whole shares": [("gradient", {"lr": lr, "batch_size": WHOLE}) for lr in RATES],
        "gradient, batches of 32": [("gradient", {"lr": lr}) for lr in RATES],
        "local:epochs=1, batches of 32": [("local:epochs=1", {"lr": lr}) for lr in RATES[1:4]],
    }
    base = MOST
    for kind, tried in ways.items():
        best = best_of(
            make, tried, goal, {"admm": MOST, "local:epochs=1, batches of 32": 5 * base}.get(kind, 10 * base)
        )
        if kind == "admm":
            base = best.rounds or MOST
        what = f"`{best.algorithm}`" if kind == "admm" else f"{kind}, lr {best.how['lr']:g}"
        if best.rounds is None:
            print(f"| {name} | {kind} | more than {best.most} | | | |", flush=True)
        else:
            print(f"| {name} | {what} | {best.rounds} ({best.rounds / base:.1f}) | {spent(best, make())} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--task", action="append", choices=TASKS, help="a task, in place of all")
    parser.add_argument("--accuracy", type=float, default=1e-3, help="the share of the minimum to come within")
    asked = parser.parse_args()
    torch.set_num_threads(1)  # as functions do
    print("| model | best way | rounds (of ADMM's) | requests | bytes | dollars |\n|---|---|---|---|---|---|")
    for name in asked.task or TASKS:
        compare(name, asked.accuracy)


if __name__ == "__main__":
    main()
