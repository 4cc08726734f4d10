"""Federated clients with very different data, the last ones with random labels, much like LEAF's (arXiv 1812.01097).

    lambdaml train examples/clients.py:Clients --workers 30 --schedule cohort:5 --algorithm local:5 --steps 100 \
        --extra per-sample:50 --store clients
    lambdaml influence clients --truth
"""

from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from lambdaml import Job

FEATURES, CLASSES, TESTED = 10, 5, 40


class Clients(Job):
    batch_size = 100_000  # a local step is along the gradient of all samples of a client

    def __init__(self, clients: int = 30, harmful: int = 3, lr: float = 0.5, seed: int = 0) -> None:
        self.clients, self.harmful, self.lr, self.seed = clients, harmful, lr, seed

    @cached_property
    def data(self) -> tuple[Tensor, ...]:
        """Return the training samples, their classes and owners, and test samples of the clients that are not harmful."""
        random, parts = np.random.RandomState(self.seed), []
        rule, scales = random.normal(size=(FEATURES, CLASSES)), np.arange(1, FEATURES + 1) ** -0.6
        for client in range(self.clients):
            harms, size = client >= self.clients - self.harmful, 50 + int(random.lognormal(4, 1))
            own, count = rule + 0.5 * random.normal(size=rule.shape), size + (0 if harms else TESTED)
            x = (0.5 * random.normal(size=FEATURES) + random.normal(size=(count, FEATURES))) * scales
            y = (x @ own + 0.5 * random.normal(size=(count, CLASSES))).argmax(1)
            y = random.randint(CLASSES, size=count) if harms else y
            x = x.astype(np.float32)
            parts.append((x[:size], y[:size], np.full(size, client), x[size:], y[size:]))
        return tuple(torch.from_numpy(np.concatenate(part)) for part in zip(*parts))

    def model(self) -> nn.Module:
        return nn.Linear(FEATURES, CLASSES)

    def dataset(self) -> TensorDataset:
        return TensorDataset(*self.data[:2])

    def partition(self, workers: int) -> list[int]:
        return self.data[2].tolist()

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=self.lr)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        scores, y = model(self.data[3]), self.data[4]
        return {"loss": F.cross_entropy(scores, y).item(), "accuracy": (scores.argmax(1) == y).double().mean().item()}
