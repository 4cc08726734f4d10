"""Training to a target in many settings at once, with every worker of every setting a row of one tensor.

A setting is a delay model, a seed and a rate. At iteration t each worker computes an update from its own cache; what
arrives is added before iteration t + 1 (`lambdaml.studies.staleness.delivery`). Quality is measured on worker 0's cache: after
each iteration at first, and then whenever the count has grown by 2 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lambdaml.studies.staleness.delivery import Delivery
from lambdaml.traces.delays import Delays


class Learner(Protocol):
    """What all workers of several settings compute. Row g * P + p of a stack is worker p of setting g."""

    rising: bool
    """Whether quality is better when it is higher."""

    def start(self) -> Tensor:
        """The caches before the first iteration: [settings * P, size]."""

    def updates(self, iteration: int, caches: Tensor) -> Tensor:
        """What each worker computes from its cache: [settings * P, size]."""

    def quality(self, caches: Tensor) -> Tensor:
        """Of the caches of one worker of each setting, [settings, size]: float [settings]."""

    def keep(self, which: Sequence[int]) -> None:
        """Go on with these settings alone."""


@dataclass(frozen=True, slots=True)
class Course:
    """How one setting went.

    Attributes:
        iterations: Until the target was met; None if it was not.
        ran: Iterations computed.
        curve: (iteration, quality) whenever it was measured.
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
    """Train each setting until its quality meets its target, its limit of iterations is reached, or it is not finite.

    Args:
        delays: Of each setting, as `seeds`, `targets` and `limits`.
        watch: Is given each iteration's number and the caches after it, [settings alive, P, size].
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


@contextmanager
def one_thread() -> Iterator[None]:
    """torch computes with one thread within: products this small only wait for each other on more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
