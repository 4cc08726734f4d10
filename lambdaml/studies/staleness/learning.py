"""Gradient learning by the workers of several settings, with their batches, gradients and own optimizers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from lambdaml.seeds import derive_seed
from lambdaml.studies.staleness.algorithms import UPDATE_RULES

_CHUNK = 64


class Problem(Protocol):
    """A model with its data. Its parameters are the rows of a stack [rows, size]."""

    size: int
    samples: int
    """The number of samples in the training set."""
    rising: bool
    """Whether quality is better when it is higher."""

    def initial(self, seed: int) -> Tensor:
        """Return the initial parameters, [size]."""

    def gradients(self, parameters: Tensor, samples: Tensor, seed: int) -> Tensor:
        """Return the gradients, [rows, size], of each row's mean loss on its own samples.

        Args:
            samples: The numbers of the training samples, [rows, batch].
            seed: The seed for anything that the loss draws by itself.
        """

    def quality(self, parameters: Tensor) -> Tensor:
        """Return the quality of each row: [rows]."""


class Batches:
    """Sample numbers, drawn with replacement, as a pure function of (seed, worker, iteration).

    Settings that differ in algorithm, rate or delays are therefore compared on the same batches.
    """

    def __init__(self, seed: int, samples: int, workers: int, batch: int) -> None:
        self._seed, self._samples, self._shape = seed, samples, (workers, batch)
        self._chunk, self._drawn = -1, torch.empty(0)

    def at(self, iteration: int) -> Tensor:
        """Return the sample numbers of an iteration, int64 [P, batch]."""
        chunk, place = divmod(iteration, _CHUNK)
        if chunk != self._chunk:
            stream = np.random.RandomState(derive_seed("study batches", self._seed, chunk) % 2**32)
            self._chunk = chunk
            self._drawn = torch.from_numpy(stream.randint(0, self._samples, (_CHUNK, *self._shape), np.int64))
        return self._drawn[place]


class GradientLearner:
    """A `lambdaml.studies.staleness.engine.Learner` with an optimizer per worker, on the gradients at its own cache."""

    def __init__(
        self, problem: Problem, algorithm: str, rates: Sequence[float], seeds: Sequence[int], workers: int, batch: int
    ) -> None:
        self.rising = problem.rising
        self._problem, self._algorithm, self._workers = problem, UPDATE_RULES[algorithm](), workers
        self._rates = torch.tensor(rates, dtype=torch.float32).repeat_interleave(workers)[:, None]
        self._seeds = list(seeds)
        self._batches = {seed: Batches(seed, problem.samples, workers, batch) for seed in seeds}

    def start(self) -> Tensor:
        first = {seed: self._problem.initial(seed) for seed in self._batches}
        return torch.stack([first[seed] for seed in self._seeds]).repeat_interleave(self._workers, 0)

    def updates(self, iteration: int, caches: Tensor) -> Tensor:
        samples = torch.cat([self._batches[seed].at(iteration) for seed in self._seeds])
        return self._algorithm(self._problem.gradients(caches, samples, iteration), self._rates)

    def quality(self, caches: Tensor) -> Tensor:
        return self._problem.quality(caches)

    def keep(self, which: Sequence[int]) -> None:
        first = torch.tensor(which, dtype=torch.long) * self._workers
        rows = (first[:, None] + torch.arange(self._workers)).flatten()
        self._algorithm.keep(rows)
        self._rates, self._seeds = self._rates[rows], [self._seeds[position] for position in which]
