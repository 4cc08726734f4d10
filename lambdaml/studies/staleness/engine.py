"""Training to a target in many settings at once, where every worker of every setting is a row of one tensor.

A setting is a delay model, a seed and a rate. At iteration t each worker computes an update from its own cache, and the
updates that arrive are added before iteration t + 1 (`lambdaml.studies.staleness.delivery`). Quality is measured on
worker 0's cache: after each iteration at first, and later whenever the count has grown by 2 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lambdaml.studies.staleness.delivery import Delivery
from lambdaml.traces.delays import Delays


class Learner(Protocol):
    """The computation of all workers of several settings. In a stack, row g * P + p is worker p of setting g."""

    rising: bool
    """Whether quality is better when it is higher."""

    def start(self) -> Tensor:
        """Return the caches before the first iteration: [settings * P, size]."""

    def updates(self, iteration: int, caches: Tensor) -> Tensor:
        """Return the update that each worker computes from its cache: [settings * P, size]."""

    def quality(self, caches: Tensor) -> Tensor:
        """Return the quality, float [settings], of the caches of one worker of each setting, [settings, size]."""

    def keep(self, which: Sequence[int]) -> None:
        """Continue with these settings alone."""


@dataclass(frozen=True, slots=True)
class Course:
    """The course of one setting.

    Attributes:
        iterations: The iterations until the target was met, or None if it was not.
        ran: The iterations that were computed.
        curve: Pairs (iteration, quality), one for each measurement.
    """

    iterations: int | None
    ran: int
    curve: list[tuple[int, float]]


def train_in_numpy(
    learner: Learner,
    delays: Sequence[Delays],
    seeds: Sequence[int],
    workers: int,
    targets: Sequence[float],
    limits: Sequence[int],
    watch: Callable[[int, Tensor], None] | None = None,
) -> list[Course]:
    """Train each setting until it meets its target or its limit of iterations, or its quality is not finite.

    Args:
        delays: The delay model of each setting, like `seeds`, `targets` and `limits`.
        watch: A function given each iteration's number and the caches after it, [settings alive, P, size].
    """
    caches = learner.start()
    delivery = Delivery(delays, seeds, workers, caches.shape[1], caches.dtype)
    courses = [Course(None, 0, []) for _ in delays]
    alive, done, due = list(range(len(delays))), 0, 1
    while alive:
        caches += delivery.exchange(done, learner.updates(done, caches))
        done += 1
        if watch is not None:
            watch(done, caches.view(len(alive), workers, -1))
        if done < min(due, *(limits[g] for g in alive)):
            continue
        due = done + max(1, done // 50)
        staying = []
        for position, value in enumerate(learner.quality(caches[::workers]).tolist()):
            g = alive[position]
            met = value >= targets[g] if learner.rising else value <= targets[g]
            courses[g] = Course(done if met else None, done, [*courses[g].curve, (done, value)])
            if not met and math.isfinite(value) and done < limits[g]:
                staying.append(position)
        if len(staying) < len(alive):
            rows = (torch.tensor(staying, dtype=torch.long)[:, None] * workers + torch.arange(workers)).flatten()
            caches = caches[rows]
            alive = [alive[position] for position in staying]
            if alive:
                delivery.keep(staying)
                learner.keep(staying)
    return courses
