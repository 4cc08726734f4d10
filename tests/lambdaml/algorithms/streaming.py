"""The reference of fragments: Streaming DiLoCo (arXiv 2501.18512) as a plain loop over models of torch, each of which lives
as long as the run.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from lambdaml.log.commits import averaged
from lambdaml.log.records import Update
from lambdaml.training.replica import Replica
from lambdaml.training.sampling import Sampler
from tests.lambdaml.algorithms.plain import Client, seed_all
from tests.lambdaml.lab import Made, settings_of, table

NESTEROV = "outer=nesterov:0.7,0.9"


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Dropout(0.2), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 3))


def momentum(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.01)


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.05)


def job(**parts: Any) -> Made:
    return Made(**{"model": mlp, "optimizer": momentum, "dataset": lambda: table(64)} | parts)


def dealt(sizes: Sequence[int], count: int) -> list[list[int]]:
    """The fragments, the largest parameter first, each to the fragment with the least so far."""
    fragments: list[list[int]] = [[] for _ in range(count)]
    for number in np.argsort(-np.array(sizes), kind="stable"):
        loads = [(sum(sizes[one] for one in fragment), len(fragment)) for fragment in fragments]
        fragments[loads.index(min(loads))].append(int(number))
    return fragments


def streaming(
    made: Made, workers: int, steps: int, count: int, updates: int, *, delay: int = 0, keep: bool = True, seed: int = 0
) -> Iterator[nn.Module]:
    """Yield the global model after each exchange: each of the workers has a model of its own for good, and every `steps`
    steps one fragment of it is exchanged, which arrives `delay` exchanges later."""
    sampler = Sampler(len(made.dataset()), workers, made.batch_size, seed)
    seed_all(seed, "model")
    model = made.model()
    model.train()
    trained = list(model.parameters())
    fragments = dealt([parameter.numel() for parameter in trained], count)
    outer = torch.optim.SGD(trained, lr=0.7, momentum=0.9, nesterov=True)
    clients = [Client(made, sampler, worker, seed) for worker in range(workers)]
    taken = [copy.deepcopy([parameter.detach() for parameter in trained]) for _ in clients]
    for client in clients:
        client.model.load_state_dict(model.state_dict())
    sent: list[list[list[torch.Tensor]]] = []
    for update in range(updates):
        sent.append([])
        for client, known in zip(clients, taken, strict=True):
            own = list(client.model.parameters())
            arrived = update - 1 - delay
            for number in fragments[arrived % count] if arrived >= 0 else ():
                known[number] = trained[number].detach().clone()
                own[number].data.copy_(known[number])
            if not keep:
                client.optimizer = made.optimizer(client.model)
            for step in range(update * steps, (update + 1) * steps):
                client.step(step)
            sent[-1].append([own[number].detach() - known[number] for number in fragments[update % count]])
        if update >= delay:
            exchange(trained, outer, fragments[(update - delay) % count], sent[update - delay])
        yield model
    for update in range(updates - delay, updates):
        exchange(trained, outer, fragments[update % count], sent[update])
    yield model


def exchange(
    trained: Sequence[nn.Parameter],
    outer: torch.optim.Optimizer,
    numbers: Sequence[int],
    sent: list[list[torch.Tensor]],
) -> None:
    outer.zero_grad()
    for number, *moved in zip(numbers, *sent, strict=True):
        total = torch.zeros_like(moved[0])
        for one in moved:
            total += one
        trained[number].grad = -(total / len(moved))
    outer.step()


def rounds(made: Made, algorithm: str, workers: int, updates: int) -> Iterator[tuple[Replica, list[Update]]]:
    """Yield a replica after each round of all workers, and the updates of the round."""
    replica = Replica(made, settings_of(made, workers=workers, steps=updates, algorithm=algorithm))
    for seq in range(updates):
        sent = [replica.update(worker, seq) for worker in range(workers)]
        replica.apply(averaged(seq, seq, sent), {update.id: update for update in sent})
        yield replica, sent


def blocks() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 64), *[nn.Linear(64, 64) for _ in range(8)], nn.Linear(64, 3))
