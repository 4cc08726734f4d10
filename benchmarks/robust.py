"""Train digits while two of eight workers send the opposite of their gradients, with each aggregate.

    python benchmarks/robust.py [--owned] [--quick]

Each worker has a copy of all training images; with --owned it has an eighth of them, so that the data of two is lost and the
others' gradients differ. The loss of the images of workers 0 and 1 has the factor -1, or -4, so that
these two send true gradients of their batches with the sign turned round, and perhaps four times as long. Nothing else
differs from the run without them. The accuracies are those of the last version on the test set, in percent, the mean and the
range over the seeds.
"""

from __future__ import annotations

import argparse
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import lambdaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from examples.digits import Digits

WORKERS, FLIPPED, SEEDS = 8, 2, (1, 2, 3)
AGGREGATES = ("mean", "median", "trimmed:0.25", "clip-median-norm", "krum:2", "krum:2,m=4")


class Flipped(Digits):
    """Digits of which the first workers' gradients have a factor.

    Args:
        factor: The factor: 1 for honest workers, and less than 0 for such as send the opposite.
        owned: Whether each image has one owner, and not a copy with every worker.
    """

    def __init__(self, factor: float = 1.0, owned: bool = False) -> None:
        super().__init__()
        self.factor, self.owned = factor, owned
        self.batch_size = 32 if owned else 128

    def partition(self, workers: int) -> Sequence[int]:
        images = len(self.data[0][1])
        if self.owned:
            return [image % workers for image in range(images)]
        return [worker for worker in range(workers) for _ in range(images)]

    def dataset(self) -> TensorDataset:
        images, labels = self.data[0]
        owners = torch.tensor(self.partition(WORKERS))
        copies, factors = len(owners) // len(images), torch.where(owners < FLIPPED, self.factor, 1.0)
        return TensorDataset(images.repeat(copies, 1), labels.repeat(copies), factors)

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        images, labels, factors = batch
        return (F.cross_entropy(model(images), labels, reduction="none") * factors).mean()


def accuracy(job: Flipped, aggregate: str, seed: int, epochs: int) -> float:
    """Return the accuracy at the end of a run, in percent."""
    result = lambdaml.train(
        job,
        f"memory://{secrets.token_hex(6)}",
        engine="inline",
        workers=WORKERS,
        epochs=epochs,
        seed=seed,
        aggregate=aggregate,
        snapshot_every=10**6,
    )
    return 100 * result.metrics["accuracy"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--owned", action="store_true", help="give each worker an eighth of the images")
    parser.add_argument("--quick", action="store_true", help="run fewer seeds and epochs")
    asked = parser.parse_args()
    factors, seeds = (1.0, -1.0, -4.0), SEEDS[:1] if asked.quick else SEEDS
    epochs = 2 if asked.quick else 60 if asked.owned else 12
    print("| aggregate | nobody | " + " | ".join(f"two send {factor:g} times it" for factor in factors[1:]) + " |")
    print("|---|" + "--:|" * len(factors))
    for aggregate in AGGREGATES:
        found = [
            [accuracy(Flipped(factor, asked.owned), aggregate, seed, epochs) for seed in seeds] for factor in factors
        ]
        cells = [f"{mean(each):.1f} ({min(each):.1f} to {max(each):.1f})" for each in found]
        print(f"| `{aggregate}` | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
