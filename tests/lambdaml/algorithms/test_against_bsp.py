"""One local step with plain SGD and model averaging is a step of `bsp`, as nearly as float32 can say.

A worker of `local:1` sends fl(fl(w - lr g) - w), which is not lr g, so the bits differ. The unit here is the last place
of the largest number that a step handles: the weight before it, after it, or at a worker, or a worker's own lr g. One
worker stays within one unit. With several, `bsp` itself leaves the exact step by more than that, because it sums the
gradients in float32; the two are then within two units.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from torch import nn

from lambdaml.log.commits import averaged
from lambdaml.training.replica import Replica
from tests.lambdaml.lab import Made, Tiny, model_bytes, settings_of, table, train

STEPS = 40


def tanh() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 3))


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 8, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    )


JOBS = {
    "a linear model": (lambda: nn.Linear(6, 3), 0.1),
    "a linear model with steps larger than its weights": (lambda: nn.Linear(6, 3), 10.0),
    "a network": (tanh, 1.0),
    "a network with BatchNorm": (conv, 0.3),
}


def step(replica: Replica, seq: int) -> list[np.ndarray]:
    """Advance a replica by one round of all its workers; returns what they sent."""
    made = [replica.update(worker, seq) for worker in range(replica.settings.workers)]
    replica.apply(averaged(seq, seq, made), {update.id: update for update in made})
    return [update.body["gradient"] for update in made]


def ratios(job: Made, lr: float, workers: int) -> np.ndarray:
    """By how many units one local step differs from a step of `bsp` from the same weights, per step and parameter."""
    bsp, local = (
        Replica(job, settings_of(job, workers=workers, steps=STEPS, algorithm=algorithm))
        for algorithm in ("gradient", "local:1,outer=average")
    )
    found = []
    for seq in range(STEPS):
        before = bsp.local.values()
        local.local.displace(before)
        gradients = step(bsp, seq)
        step(local, seq)
        one, other = bsp.local.values(), local.local.values()
        own = [np.float32(lr) * gradient for gradient in gradients]
        handled = [before, one, other, *own, *[before - each for each in own]]
        unit = np.spacing(np.max(np.abs(handled), axis=0))
        found.append(np.abs(one.astype(np.float64) - other) / unit)
    return np.array(found)


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("name", JOBS)
def test_one_local_step_is_a_step_of_bsp_within_one_unit_or_two_if_updates_are_summed(name: str, workers: int) -> None:
    model, lr = JOBS[name]
    job = Made(model, lambda ps: torch.optim.SGD(ps, lr=lr), dataset=lambda: table(64))
    found = ratios(job, lr, workers)
    print(f"{name}, {workers} workers: largest {found.max():.3f}, above one unit {(found > 1).sum()} of {found.size}")
    assert found.size == STEPS * sum(parameter.numel() for parameter in model().parameters())
    assert found.max() <= (1 if workers == 1 else 2)
    assert (found > 1).mean() <= 2e-3


def test_error_feedback_around_an_exact_codec_changes_no_bit() -> None:
    for algorithm in ("gradient", "local:2,outer=nesterov"):
        for schedule in ("bsp", "ssp:0"):
            shas = {
                hashlib.sha256(model_bytes(run)).hexdigest()
                for feedback in (0.0, 0.5, 1.0)
                for run in [
                    train(Tiny(), workers=2, steps=4, error_feedback=feedback, algorithm=algorithm, schedule=schedule)
                ]
            }
            assert len(shas) == 1
