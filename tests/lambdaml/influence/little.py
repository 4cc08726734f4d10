"""A small federated run in double precision, and FedAvg as a plain loop beside it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import lambdaml
from lambdaml.influence.federated import FederatedRun, Round
from lambdaml.job import Job
from tests.lambdaml.lab import table, train

OWNERS = [number % 5 if number < 20 else number % 3 for number in range(60)]
"""Five clients; the first three own 17 or 18 samples, and the others 4."""


class Little(Job):
    """A network with a bend, on 60 points of five clients.

    Args:
        decay: The weight decay.
        falls: Whether the learning rate falls from step to step.
        drops: The share of the hidden units that dropout leaves out.
        plain: Whether its loss is that of tensors alone; otherwise it looks at a value, which cannot be vectorised.
    """

    batch_size = 4

    def __init__(
        self, lr: float = 0.2, decay: float = 0.0, falls: bool = False, drops: float = 0.0, plain: bool = True
    ) -> None:
        self.lr, self.decay, self.falls, self.drops, self.plain = lr, decay, falls, drops, plain

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Dropout(self.drops), nn.Linear(4, 3)).double()

    def dataset(self) -> TensorDataset:
        x, y = table(60).tensors
        return TensorDataset(x.double(), y)

    def partition(self, workers: int) -> Sequence[int]:
        return OWNERS

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        x, y = batch
        found = F.cross_entropy(model(x), y)
        return found if self.plain else found * (1.0 if found.item() > -1 else 2.0)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=self.lr, weight_decay=self.decay)

    def scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
        return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.97) if self.falls else None

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        x, y = self.dataset().tensors
        scores = model(x)
        return {"accuracy": (scores.argmax(1) == y).double().mean().item(), "loss": F.cross_entropy(scores, y).item()}


def trained(job: Job, **options: Any) -> lambdaml.Run:
    """A run of five clients, of whom two take part in a round, with three local steps each."""
    given = {"workers": 5, "schedule": "cohort:2", "algorithm": "local:3", "steps": 6, "keep": "all"} | options
    return lambdaml.Run(train(job, **given).store, job)


def walked(run: lambdaml.Run, job: Job, look: Callable[[FederatedRun, Round], None]) -> FederatedRun:
    """Walk along a run, and look at each round."""
    federated = FederatedRun(run, job)
    for each in federated.rounds():
        look(federated, each)
    return federated


def local_steps(job: Little, federated: FederatedRun, found: Round, number: int, start: Tensor) -> Tensor:
    """Where the local steps of a turn end that begins at `start`, by autograd alone, without the runtime's training."""
    turn, sampler = found.turns[number], federated.replica.sampler
    model, (x, y) = job.model(), job.dataset().tensors
    for step in range(turn.due.batches):
        nn.utils.vector_to_parameters(start, model.parameters())
        own = sampler.dealt(turn.client, turn.due.first_batch + step).tolist()
        gradient = torch.autograd.grad(F.cross_entropy(model(x[own]), y[own]), list(model.parameters()))
        rate = job.lr * (0.97 ** (found.step + step) if job.falls else 1.0)
        start = start - rate * (nn.utils.parameters_to_vector(gradient) + job.decay * start)
    return start


def without(job: Little, run: lambdaml.Run, left_out: Collection[int]) -> Tensor:
    """The model of a plain loop of FedAvg over the rounds of a run, without some clients."""
    model: list[Tensor] = []

    def go_on(federated: FederatedRun, found: Round) -> None:
        if not model:
            model.append(federated.weights())
        stay = [number for number, turn in enumerate(found.turns) if turn.client not in left_out]
        sizes = [OWNERS.count(found.turns[number].client) for number in stay]
        ends = [local_steps(job, federated, found, number, model[0]) for number in stay]
        if stay:
            model[0] = sum(size * end for size, end in zip(sizes, ends, strict=True)) / sum(sizes)

    walked(run, job, go_on)
    return model[0]
