"""What the gradients of single samples and leave-one-out cost a FedAvg run.

    python benchmarks/left_out.py [--quick]

30 clients of uneven size, of whom 5 take part in each of 100 rounds, with 5 local steps on 10 samples: a logistic regression of 10
features and 5 classes. Each run is trained in this process, in memory. The times are the medians of three.
"""

from __future__ import annotations

import argparse
import secrets
from collections.abc import Callable
from statistics import median
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import lambdaml
from lambdaml.log import keys

CLIENTS, COHORT, ROUNDS, FEATURES, CLASSES, SAMPLES = 30, 5, 100, 10, 5, 3000


class Synthetic(lambdaml.Job):
    """Points whose classes a random linear model gives."""

    batch_size = 10

    def model(self) -> nn.Module:
        return nn.Linear(FEATURES, CLASSES)

    def dataset(self) -> TensorDataset:
        random = torch.Generator().manual_seed(1)
        points = torch.randn(SAMPLES, FEATURES, generator=random)
        return TensorDataset(points, (points @ torch.randn(FEATURES, CLASSES, generator=random)).argmax(1))

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        points, classes = batch
        return F.cross_entropy(model(points), classes)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1)


def trained(rounds: int, extra: str | None = None) -> lambdaml.Run:
    """Return a run."""
    options = {"workers": CLIENTS, "schedule": f"cohort:{COHORT}", "algorithm": "local:5", "partition": "dirichlet:1"}
    place = f"memory://{secrets.token_hex(6)}"
    lambdaml.train(
        Synthetic(), place, engine="inline", steps=rounds, extra=extra, snapshot_every=rounds, keep="all", **options
    )
    return lambdaml.Run(place, Synthetic())


def timed(work: Callable[[], lambdaml.Run]) -> tuple[float, lambdaml.Run]:
    """Return the median seconds of three calls, and what the last one returned."""
    seconds = []
    for _ in range(3):
        began = perf_counter()
        run = work()
        seconds.append(perf_counter() - began)
    return median(seconds), run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="take ten rounds")
    rounds = 10 if parser.parse_args().quick else ROUNDS
    plain_s, plain = timed(lambda: trained(rounds))
    print("| run | seconds | MB beside updates |\n|---|--:|--:|")
    print(f"| without | {plain_s:.2f} | 0 |")
    for extra in ("per-sample:50", "per-sample:50,codec=bf16"):
        seconds, run = timed(lambda extra=extra: trained(rounds, extra))  # type: ignore[misc]
        measured = sum(info.size_bytes for info in run.store.list(keys.EXTRA_OBJECTS))
        print(f"| `{extra}` | {seconds:.2f} | {measured / 1e6:.1f} |", flush=True)

    def left_out(client: int) -> lambdaml.Run:
        place = f"memory://{secrets.token_hex(6)}"
        plain.rerun(place, [client], engine="inline")
        return lambdaml.Run(place, Synthetic())

    one_s, _ = timed(lambda: left_out(7))
    print(f"| `rerun --without client:7` | {one_s:.2f} | 0 |")
    began = perf_counter()
    for client in range(CLIENTS):
        left_out(client)
    print(f"\nLeave-one-out of {CLIENTS} clients, one after the other: {perf_counter() - began:.1f} s")


if __name__ == "__main__":
    main()
