"""Local steps end where an ordinary PyTorch loop over the workers ends: FedAvg, DiLoCo, FedAdam (`plain.py`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

import lambdaml
from lambdaml.log.commits import averaged
from lambdaml.training.replica import Replica
from tests.lambdaml.algorithms.plain import federated
from tests.lambdaml.lab import Made, equal, settings_of, table, train

EVEN, UNEVEN = 64, 61
"""The samples of four workers: 16 each, which are two batches of 8; or 16, 15, 15 and 15."""


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Dropout(0.2), nn.Linear(10, 3))


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 10), nn.BatchNorm1d(10), nn.Tanh(), nn.Linear(10, 3))


def partly_frozen() -> nn.Module:
    model = mlp()
    model[0].requires_grad_(False)
    return model


def momentum(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for p in parameters if p.requires_grad], lr=0.1, momentum=0.9, weight_decay=0.01)


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.05)


def warm_up(optimizer: torch.optim.Optimizer) -> Any:
    decay = lr_scheduler.CosineAnnealingLR(optimizer, 9)
    return lr_scheduler.SequentialLR(optimizer, [lr_scheduler.LinearLR(optimizer, 0.25, total_iters=3), decay], [3])


def one_cycle(optimizer: torch.optim.Optimizer) -> Any:
    return lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=11)


def halved(optimizer: torch.optim.Optimizer) -> Any:
    return lr_scheduler.StepLR(optimizer, 1, gamma=0.5)


def job(samples: int = EVEN, **parts: Any) -> Made:
    return Made(**{"model": mlp, "optimizer": momentum, "dataset": lambda: table(samples)} | parts)


def rounds(job: Made, algorithm: str, workers: int, batches: int, local_steps: int) -> Iterator[Replica]:
    """Yield a replica after each round of all workers."""
    steps = -(-batches // local_steps)
    replica = Replica(job, settings_of(job, workers=workers, steps=steps, batches=batches, algorithm=algorithm))
    for seq in range(steps):
        made = [replica.update(worker, seq) for worker in range(workers)]
        assert sum(update.batches[1] for update in made) == workers * min(local_steps, batches - seq * local_steps)
        replica.apply(averaged(seq, seq, made), {update.id: update for update in made})
        yield replica


JOBS: dict[str, tuple[Made, dict[str, Any]]] = {
    "momentum that is made anew": (job(), {}),
    "momentum that is kept": (job(), {"keep": True}),
    "Adam that is made anew": (job(optimizer=adam), {}),
    "Adam that is kept": (job(optimizer=adam), {"keep": True}),
    "uneven shares by samples": (job(UNEVEN), {}),
    "uneven shares that count alike": (job(UNEVEN), {"equal": True}),
    "clipped gradients": (job(clip_norm=0.05), {}),
    "a schedule of steps": (job(scheduler=warm_up), {}),
    "a schedule of steps and Adam that is kept": (job(optimizer=adam, scheduler=warm_up), {"keep": True}),
    "a schedule that changes the momentum, too": (job(scheduler=one_cycle), {}),
    "a schedule that changes a momentum that is kept": (job(scheduler=one_cycle), {"keep": True}),
    "a schedule of epochs": (job(scheduler=halved, scheduler_interval="epoch"), {}),
    "frozen parameters": (job(model=partly_frozen), {"keep": True}),
    "running means of BatchNorm": (job(model=normed), {}),
}


@pytest.mark.parametrize(("workers", "local_steps"), [(1, 1), (1, 3), (4, 3)])
@pytest.mark.parametrize("what", JOBS)
def test_model_averaging_is_that_of_a_plain_loop_bit_for_bit(what: str, workers: int, local_steps: int) -> None:
    """11 batches are no multiple of the local steps or of the two or eight batches of an epoch."""
    job, options = JOBS[what]
    spec = f"local:{local_steps},inner={'keep' if options.get('keep') else 'anew'}"
    spec += ",weights=equal" if options.get("equal") else ""
    plain = federated(job, workers, 11, local_steps, **options)
    count = 0
    for replica, expected in zip(rounds(job, spec, workers, 11, local_steps), plain, strict=True):
        assert equal(dict(replica.model.state_dict()), dict(expected.state_dict())), count
        count += 1
    assert count == -(-11 // local_steps)


def test_buffers_of_uneven_workers_are_averaged_by_samples_within_a_few_ulps() -> None:
    found, plain = rounds(job(UNEVEN, model=normed), "local:2", 4, 6, 2), federated(job(UNEVEN, model=normed), 4, 6, 2)
    for replica, expected in zip(found, plain, strict=True):
        for one, other in zip(replica.model.buffers(), expected.buffers(), strict=True):
            np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-6, atol=1e-8)


OUTER = {
    "average": lambda ps: torch.optim.SGD(ps, lr=1.0),
    "sgd:0.5": lambda ps: torch.optim.SGD(ps, lr=0.5),
    "nesterov": lambda ps: torch.optim.SGD(ps, lr=0.7, momentum=0.9, nesterov=True),
    "nesterov:0.4,0.8": lambda ps: torch.optim.SGD(ps, lr=0.4, momentum=0.8, nesterov=True),
    "adam": lambda ps: torch.optim.Adam(ps, lr=0.01, betas=(0.9, 0.99), eps=1e-3),
    "adam:lr=0.1,beta1=0.8,beta2=0.95,eps=0.01": lambda ps: torch.optim.Adam(ps, lr=0.1, betas=(0.8, 0.95), eps=0.01),
}
KEPT_AND_EQUAL = {"nesterov"}


@pytest.mark.parametrize("outer", OUTER)
def test_outer_optimizers_are_those_of_torch_on_minus_the_mean_displacement_bit_for_bit(outer: str) -> None:
    """The defaults for the inner optimizer and the weights are those of the sources: DiLoCo keeps and counts alike."""
    diloco = outer.partition(":")[0] in KEPT_AND_EQUAL
    plain = federated(job(UNEVEN, optimizer=adam), 4, 12, 3, outer=OUTER[outer], keep=diloco, equal=diloco)
    found = rounds(job(UNEVEN, optimizer=adam), f"local:3,outer={outer}", 4, 12, 3)
    for replica, expected in zip(found, plain, strict=True):
        assert equal(dict(replica.model.state_dict()), dict(expected.state_dict()))


def test_a_run_is_that_loop_too_whoever_computes_it() -> None:
    made = job(optimizer=adam, scheduler=warm_up, model=normed)
    *_, expected = federated(made, 4, 10, 3, outer=OUTER["nesterov"], keep=True, equal=True)
    for functions in (1, 3):
        run = train(made, workers=4, epochs=5, algorithm="local:3,outer=nesterov", functions=functions)
        assert run.settings.steps == 4 and run.settings.batches == 10
        assert equal(dict(lambdaml.Run(run.store, made).model().state_dict()), dict(expected.state_dict()))
        assert lambdaml.Run(run.store, made).verify().faults == []


def test_local_epochs_are_passes_over_a_workers_own_data() -> None:
    *_, expected = federated(job(UNEVEN), 4, 6, 2)
    run = train(job(UNEVEN), workers=4, epochs=3, algorithm="local:epochs=1")
    assert run.settings.steps == 3 and run.settings.steps_per_epoch == 2
    assert equal(dict(lambdaml.Run(run.store, job(UNEVEN)).model().state_dict()), dict(expected.state_dict()))
