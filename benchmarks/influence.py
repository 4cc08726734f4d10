"""How good estimates of the influence of clients are, what leaving out the lowest brings, and what large steps do to estimates.

    python benchmarks/influence.py quality|cleansing|truncation [--quick]

quality: logistic regression on synthetic data of 30 clients, of whom three have random labels, with 5 clients a round, 5 local
steps, 100 rounds, and 50 recorded gradients a local step. Every client is left out, once by estimate and once by training.
cleansing: the same with six harmful clients, and from version 50 on a fifth of all clients is left out: the lowest by their exact
influence at that version, the highest, or some by chance. Numbers are those at version 100, less those of the run, over the seeds.
truncation: a network of 32 hidden units on digits, 10 clients with skewed classes, 3 a round, 2 local steps, with rising learning
rates: how much the largest 2-norm of a difference in any round is longer than that after the first, and Pearson's correlation of
FIL with the truth.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import correlation, mean, median
from typing import Any

import numpy as np
import torch
from torch import Tensor

import lambdaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from examples.clients import Clients
from examples.digits import Digits
from lambdaml.influence.federated import FederatedRun
from lambdaml.influence.products import ExactProducts, FisherProducts, Products
from lambdaml.influence.recursion import TRUNCATIONS, Recursion
from lambdaml.influence.truth import Retraining
from lambdaml.log.extra import read_extra
from lambdaml.training.evaluation import metrics_of

CLIENTS, ROUNDS, SHARE = 30, 100, 0.2
AVERAGING: dict[str, Any] = {"engine": "inline", "algorithm": "local:5", "keep": "all", "snapshot_every": 10**6}


def trained(job: lambdaml.Job, **options: Any) -> FederatedRun:
    """Train, and return the run as it is read back."""
    url = f"memory://{secrets.token_hex(6)}"
    lambdaml.train(job, url, **AVERAGING | options)
    return FederatedRun(lambdaml.Run(url, job), job)


def fisher(federated: FederatedRun) -> Products:
    """Return the estimator that takes the gradients that the run has recorded."""
    return FisherProducts(federated, lambda worker, seq: read_extra(federated._run.store, worker, seq).gradients)


def changes(federated: FederatedRun, rows: Tensor, metric: str) -> list[float]:
    """Return how a metric changes if the model moves by each of these rows."""
    base, replica = federated.weights(), federated.replica
    found = []
    for row in [torch.zeros_like(base), *rows]:
        replica.flat.restore((base + row).numpy())
        found.append(metrics_of(replica.job, replica.model)[metric])
    replica.flat.restore(base.numpy())
    return [value - found[0] for value in found[1:]]


def quality(quick: bool) -> Iterator[str]:
    """Yield the lines of the table of estimates beside the truth."""
    yield "| lr | estimator | Pearson, FIL | Pearson, FIA | relative error of the difference, median | lowest clients | seconds |"
    yield "|---|---|--:|--:|--:|---|--:|"
    everyone = [[client] for client in range(CLIENTS)]
    for lr in (0.1, 0.01):
        steps = 10 if quick else ROUNDS
        options = {"workers": CLIENTS, "schedule": "cohort:5", "steps": steps, "extra": "per-sample:50"}
        federated = trained(Clients(lr=lr), **options)
        estimators = {"exact": ExactProducts(federated), "fisher": fisher(federated)}
        recursions = {name: Recursion(federated, everyone, "client") for name in estimators}
        retraining, seconds = Retraining(federated, everyone), dict.fromkeys([*estimators, "truth"], 0.0)
        for found in federated.rounds():
            for name, products in estimators.items():
                began = time.perf_counter()
                recursions[name].advance(found, products)
                seconds[name] += time.perf_counter() - began
            began = time.perf_counter()
            retraining.advance(found)
            seconds["truth"] += time.perf_counter() - began
        truth = retraining.models - federated.weights()
        true = {metric: changes(federated, truth, metric) for metric in ("loss", "accuracy")}
        for name, recursion in recursions.items():
            rows = recursion.differences
            errors = (rows - truth).norm(dim=1) / truth.norm(dim=1)
            loss, accuracy = (changes(federated, rows, metric) for metric in true)
            pearson = correlation(loss, true["loss"]), correlation(accuracy, true["accuracy"])
            yield (
                f"| {lr} | `{name}` | {pearson[0]:.4f} | {pearson[1]:.4f} | {median(errors.tolist()):.3f} | "
                f"{_lowest(loss)} | {seconds[name]:.1f} |"
            )
        yield f"| {lr} | training without each | | | | {_lowest(true['loss'])} | {seconds['truth']:.1f} |"


def _lowest(losses: Sequence[float]) -> str:
    return ", ".join(map(str, np.argsort(losses)[:4]))


def cleansing(quick: bool) -> Iterator[str]:
    """Yield the lines of the table of runs that are cleansed in mid-run."""
    seeds, count = range(2 if quick else 8), round(SHARE * CLIENTS)
    middle = 5 if quick else ROUNDS // 2
    losses: dict[str, list[float]] = {"the lowest": [], "some by chance": [], "the highest": []}
    points: dict[str, list[float]] = {name: [] for name in losses}
    for seed in seeds:
        job = Clients(lr=0.1, seed=seed, harmful=round(SHARE * CLIENTS))
        federated = trained(job, workers=CLIENTS, schedule="cohort:5", steps=2 * middle, seed=seed)
        recursion = Recursion(federated, [[client] for client in range(CLIENTS)], "client")
        exact, retraining, chance = ExactProducts(federated), None, np.random.RandomState(seed)
        for found in federated.rounds():
            if federated.replica.version < middle:
                recursion.advance(found, exact)
                continue
            if retraining is None:
                ranking = np.argsort(changes(federated, recursion.differences, "loss")).tolist()
                drawn = [chance.choice(CLIENTS, count, replace=False).tolist() for _ in range(5)]
                retraining = Retraining(federated, [ranking[:count], ranking[-count:], *drawn])
            retraining.advance(found)
        assert retraining is not None
        rows = retraining.models - federated.weights()
        for of, metric, factor in ((losses, "loss", 1), (points, "accuracy", 100)):
            lowest, highest, *others = (factor * change for change in changes(federated, rows, metric))
            for name, value in zip(of, (lowest, mean(others), highest), strict=True):
                of[name].append(value)
    yield "| left out from version 50 on | loss | accuracy, points | seeds whose loss is lower than before |"
    yield "|---|--:|--:|--:|"
    for name, found_losses in losses.items():
        better = sum(value < 0 for value in found_losses)
        spread = f"{min(found_losses):+.4f} to {max(found_losses):+.4f}"
        means = f"{mean(found_losses):+.4f} ({spread}) | {mean(points[name]):+.2f}"
        yield f"| {name} | {means} | {better} of {len(seeds)} |"


def truncation(quick: bool) -> Iterator[str]:
    """Yield the lines of the table of growths."""
    workers, estimators = 10, ("fisher", "exact")
    everyone = [[client] for client in range(workers)]
    kinds = [(estimator, kind) for estimator in estimators for kind in TRUNCATIONS]
    yield "| lr | accuracy | truth | " + " | ".join(f"`{estimator}`, `{kind}`" for estimator, kind in kinds) + " |"
    yield "|---|" + "--:|" * (2 + len(kinds))
    for lr in (0.1, 1.5) if quick else (0.1, 0.3, 1.0, 1.5, 2.0):
        options = {"partition": "dirichlet:0.5", "algorithm": "local:2", "extra": "per-sample:50"}
        job = Digits(lr=lr, hidden=32)
        federated = trained(job, workers=workers, schedule="cohort:3", steps=8 if quick else 60, **options)
        products = dict(zip(estimators, (fisher(federated), ExactProducts(federated)), strict=True))
        recursions = {(name, kind): Recursion(federated, everyone, kind) for name, kind in kinds}
        retraining, growth = Retraining(federated, everyone), []
        sizes: dict[tuple[str, str], list[float]] = {each: [] for each in kinds}
        for found in federated.rounds():
            for each, recursion in recursions.items():
                recursion.advance(found, products[each[0]])
                sizes[each].append(float(recursion.differences.norm(dim=1).max()))
            retraining.advance(found)
            weights = torch.tensor([turn.weight for turn in found.turns])
            after = federated.weights() + weights / weights.sum() @ torch.stack([turn.moved for turn in found.turns])
            growth.append(float((retraining.models - after).norm(dim=1).max()))
        true = changes(federated, retraining.models - federated.weights(), "loss")
        cells = [f"{metrics_of(job, federated.replica.model)['accuracy']:.3f}", f"{max(growth) / growth[0]:,.1f}"]
        for each, recursion in recursions.items():
            alike = correlation(changes(federated, recursion.differences, "loss"), true)
            cells.append(f"{max(sizes[each]) / sizes[each][0]:,.1f} ({alike:.2f})")
        yield f"| {lr} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("table", choices=["quality", "cleansing", "truncation"], help="what to measure")
    parser.add_argument("--quick", action="store_true", help="run fewer rounds, seeds or learning rates")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for line in {"quality": quality, "cleansing": cleansing, "truncation": truncation}[asked.table](asked.quick):
        print(line, flush=True)


if __name__ == "__main__":
    main()
