"""Federated clients with data of their own: logistic regression on 5 classes of 10 features, where some clients are harmful.

Clients own very different numbers of samples, from distributions of their own, in the manner of LEAF's synthetic data (Caldas et
al., arXiv 1812.01097). The last of them have random labels. The test samples are the others'.

Try:

    lambdaml train examples/clients.py:Clients --workers 30 --schedule cohort:5 --algorithm local:5 --steps 100 \
        --extra per-sample:50 --store clients
    lambdaml influence clients --truth
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from lambdaml import Job

FEATURES, CLASSES, TEST = 10, 5, 40
"""The number of features and of classes, and of test samples from each client whose labels are right."""


class Clients(Job):
    batch_size = 100_000  # local steps are along the gradient of all samples of a client

    def __init__(self, clients: int = 30, harmful: int = 3, lr: float = 0.1, seed: int = 0) -> None:
        self.clients, self.harmful, self.lr, self.seed = clients, harmful, lr, seed

    @cached_property
    def data(self) -> tuple[Tensor, Tensor, Tensor, Tensor, list[int]]:
        """Return the training and the test samples with their classes, and the owner of each training sample."""
        random = np.random.RandomState(self.seed)
        common, scales = random.normal(size=(FEATURES, CLASSES)), np.arange(1, FEATURES + 1) ** -0.6
        train, test, owners = [], [], []
        for client in range(self.clients):
            own = common + 0.5 * random.normal(size=common.shape)
            size = 50 + int(random.lognormal(4, 1))
            x = (0.5 * random.normal(size=FEATURES) + random.normal(size=(size + TEST, FEATURES))) * scales
            y = (x @ own + 0.5 * random.normal(size=(len(x), CLASSES))).argmax(1)
            if client < self.clients - self.harmful:
                test.append((x[size:], y[size:]))
            else:
                y = random.randint(CLASSES, size=len(y))
            train.append((x[:size], y[:size]))
            owners += [client] * size
        parts = [np.concatenate(part) for samples in (train, test) for part in zip(*samples)]
        x_train, y_train, x_test, y_test = map(torch.from_numpy, parts)
        return x_train.float(), y_train, x_test.float(), y_test, owners

    def model(self) -> nn.Module:
        return nn.Linear(FEATURES, CLASSES)

    def dataset(self) -> TensorDataset:
        return TensorDataset(*self.data[:2])

    def partition(self, workers: int) -> Sequence[int]:
        if workers != self.clients:
            raise ValueError(f"there are {self.clients} clients: give as many workers, or set clients={workers}")
        return self.data[4]

    def loss(self, model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
        x, y = batch
        return F.cross_entropy(model(x), y)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=self.lr)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        x, y = self.data[2:4]
        scores = model(x)
        return {"loss": F.cross_entropy(scores, y).item(), "accuracy": (scores.argmax(1) == y).double().mean().item()}
