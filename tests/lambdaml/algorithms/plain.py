"""The reference: federated rounds in an ordinary PyTorch loop, with a model and an optimizer of torch for each worker.

All that the loop takes from lambdaml is what is documented of a run: which samples make a batch, and the seeds of the
random streams.
"""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import default_collate

from lambdaml import Job
from lambdaml.seeds import derive_seed
from lambdaml.training.sampling import Sampler


class Client:
    """One worker of the loop: its own model, optimizer and schedule."""

    def __init__(self, job: Job, sampler: Sampler, worker: int, seed: int) -> None:
        self.job, self.sampler, self.worker, self.seed = job, sampler, worker, seed
        self.dataset = job.dataset()
        self.share = len(range(worker, sampler.samples, sampler.workers))
        self.begin(0)

    def begin(self, step: int) -> None:
        """Make everything anew, with the schedule where it is before this step."""
        self.model = self.job.model()
        self.model.train()
        self.optimizer = self.job.optimizer(self.model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch warns of a schedule that precedes its optimizer
            self.scheduler = self.job.scheduler(self.optimizer)
            for before in range(step):
                self.follow(before)

    def follow(self, step: int) -> None:
        """Take a step of the schedule after a step of the optimizer."""
        epoch_ends = (step + 1) % self.sampler.steps_per_epoch == 0
        if self.scheduler is not None and (self.job.scheduler_interval == "step" or epoch_ends):
            self.scheduler.step()

    def step(self, number: int) -> None:
        """Take step `number` of this worker's life."""
        seed_all("samples", self.seed, self.worker, number)
        batch = default_collate([self.dataset[i] for i in self.sampler.indices(self.worker, number).tolist()])
        seed_all("update", self.seed, self.worker, number)
        self.optimizer.zero_grad()
        self.job.loss(self.model, batch).backward()
        if self.job.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.job.clip_norm)
        self.optimizer.step()
        self.follow(number)


def federated(
    job: Job,
    workers: int,
    batches: int,
    local_steps: int,
    *,
    outer: Callable[[Any], torch.optim.Optimizer] = lambda parameters: torch.optim.SGD(parameters, lr=1.0),
    keep: bool = False,
    equal: bool = False,
    seed: int = 0,
    without: Collection[int] = (),
) -> Iterator[nn.Module]:
    """Yield the global model after each round, until each worker has computed this many batches.

    Args:
        outer: Makes the optimizer that is given minus the mean displacement as a gradient.
        keep: Whether workers keep their optimizers from round to round.
        equal: Whether workers count alike, rather than by the samples that they have.
        without: The workers that take no part.
    """
    sampler = Sampler(len(job.dataset()), workers, job.batch_size, seed)
    seed_all(seed, "model")
    model = job.model()
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = outer(trained)
    clients = [Client(job, sampler, worker, seed) for worker in range(workers) if worker not in without]
    for begin in range(0, batches, local_steps):
        for client in clients:
            if not keep:
                client.begin(begin)
            client.model.load_state_dict(copy.deepcopy(model.state_dict()))
            for number in range(begin, min(batches, begin + local_steps)):
                client.step(number)
        counts = [1.0 if equal else float(client.share) for client in clients]
        for parameter, *others in zip(trained, *[_trained(client.model) for client in clients], strict=True):
            parameter.grad = -_mean(parameter, others, counts)
        with torch.no_grad():
            for buffer, *others in zip(model.buffers(), *[client.model.buffers() for client in clients], strict=True):
                if len(others) == 1:
                    buffer.copy_(others[0])
                elif buffer.is_floating_point():
                    buffer += _mean(buffer, others, counts)
                else:
                    buffer.copy_(torch.stack(others).amax(0))
        optimizer.step()
        yield model


def seed_all(*parts: int | str) -> None:
    """Seed the random streams of torch, Python and NumPy as a run does."""
    number = derive_seed(*parts)
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number % 2**32)


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _mean(base: torch.Tensor, others: list[torch.Tensor], counts: list[float]) -> torch.Tensor:
    """The weighted mean of how far the others are from the base, summed in order and divided once."""
    if len(others) == 1:
        return others[0].detach() - base.detach()
    total = torch.zeros_like(base)
    for other, count in zip(others, counts, strict=True):
        total += (other.detach() - base.detach()) * count
    return total / sum(counts)
