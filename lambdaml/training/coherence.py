"""Gradient coherence says how much the gradient of some steps ago still tells about the present one.

It is measured on a fixed reference set F of training samples, along a sequence of states x_0, x_1, ... of one training
(Dai et al., ICLR 2019, arXiv 1810.03264, section 5):

    projection(k, lag) = <grad F(x_k), grad F(x_{k-lag})> / |grad F(x_k)|^2
    cosine(k, lag)     = <grad F(x_k), grad F(x_{k-lag})> / (|grad F(x_k)| |grad F(x_{k-lag})|)
    mu_k               = min of projection(k, lag) over lag = 0 ... s-1

Their theorem asks for mu_k >= mu > 0 at every step, and takes steps of mu / (s L sqrt(k)).

From this we estimate how much staleness a job can tolerate (`Coherence.tolerance`; the estimate is ours). To first
order a step of length d along the gradient of `lag` steps ago lowers F by d |grad F(x_k)| cosine(k, lag): it is worth
cosine(lag) fresh steps of that length. A staleness is tolerable while, late in training, such a step is worth at least
half a fresh one. Only the late part counts, because coherence changes during training and most steps are taken there.
The estimate is cautious: it ignores second-order terms and the noise of batches, which staleness does not make worse.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from lambdaml.errors import SettingsError
from lambdaml.job import Job
from lambdaml.log import keys
from lambdaml.log.snapshot import read_state
from lambdaml.seeds import derive_seed
from lambdaml.training.loading import load_run_job
from lambdaml.training.one_thread import OneThread

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lambdaml.log.reader import RunReader

SAMPLES = 1000
"""The reference set has this many samples by default."""

_LAGS = (1, 2, 4, 8, 16, 32)

KEPT = 8
"""A state is compared with this many earlier states if no lags are given."""

LEAST = 0.5
"""A stale step must be worth at least this many fresh steps to be tolerable."""


@dataclass(frozen=True, slots=True)
class Point:
    """Holds what was measured at one state.

    Attributes:
        step: The number of the step, or the version, of the state.
        norm: The norm of the reference gradient.
        cosine, projection: The two measures by lag, in steps; the module's docstring defines them.
    """

    step: int
    norm: float
    cosine: dict[int, float]
    projection: dict[int, float]

    def mu(self, window: int) -> float:
        """Return mu_k over the measured lags below `window`; 1 if only lag 0 is below it."""
        return min([1.0, *(value for lag, value in self.projection.items() if lag < window)])


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Holds the staleness that a job can tolerate.

    Attributes:
        steps: The staleness, in steps of the training that it was measured on.
        at_least: Whether no measured lag was too much, so that the job can tolerate at least this.
    """

    steps: float
    at_least: bool


@dataclass(frozen=True, slots=True)
class Coherence:
    """Holds the coherence along a training.

    Attributes:
        points: The points, in the order of the training.
    """

    points: tuple[Point, ...]

    def cosine(self, late: float = 0.5) -> dict[int, float]:
        """Return the mean cosine over the last share `late` of the points, by each lag that was measured there."""
        recent = self.points[len(self.points) - math.ceil(len(self.points) * late) :]
        lags = sorted({lag for point in recent for lag in point.cosine})
        return {lag: fmean(point.cosine[lag] for point in recent if lag in point.cosine) for lag in lags}

    def mu(self, window: int) -> float:
        """Return the least mu_k of all points: the greatest mu that the theorem allows for staleness below `window`."""
        return min((point.mu(window) for point in self.points), default=1.0)

    def tolerance(self, least: float = LEAST, late: float = 0.5) -> Tolerance:
        """Return the largest staleness up to which the mean cosine never falls below `least`; see the module's
        docstring.

        Between two measured lags the cosine is taken to be linear; at lag 0 it is 1.
        """
        before = (0, 1.0)
        for lag, value in self.cosine(late).items():
            if value < least:
                (lower, above) = before
                return Tolerance(lower + (lag - lower) * (above - least) / (above - value), False)
            before = (lag, value)
        return Tolerance(float(before[0]), True)


class Probe:
    """Measures states of one training as they are handed in.

    Args:
        job: The job that gives the loss and the data set. The model is in `eval()` mode.
        samples: The number of samples in the reference set, which is drawn once; if the data set has fewer, all.
        lags: The lags to measure, in steps. By default a state is compared with each of the `kept` states before it.
        kept: The number of earlier states that a state is compared with if no lags are given.
        seed: The seed of the draw.
        batch_size: The number of samples whose loss is computed at once; by default the job's batch size.
        device: The torch device that computes.

    It holds in memory the samples, and one gradient for each state that some lag still needs.
    """

    def __init__(
        self,
        job: Job,
        samples: int = SAMPLES,
        lags: Sequence[int] | None = None,
        *,
        kept: int = KEPT,
        seed: int = 0,
        device: str = "cpu",
        batch_size: int | None = None,
    ) -> None:
        if samples < 1:
            raise SettingsError(f"samples: must be 1 or more (it is {samples})")
        if lags is not None and (not lags or min(lags) < 1):
            raise SettingsError(f"lags: must be 1 or more (they are {list(lags)})")
        self._job, self._device, self._seed = job, device, derive_seed("reference", seed)
        self._batches = _batches(job, samples, batch_size or job.batch_size, self._seed, device)
        self._lags = set(lags) if lags is not None else None
        self._kept: deque[tuple[int, float, Tensor]] = deque(maxlen=kept if lags is None else None)

    def add(self, step: int, model: nn.Module) -> Point:
        """Measure a state. Steps must grow. Neither the model nor torch's random stream is changed.

        Raises:
            JobFailed: If the job's loss raised.
        """
        gradient = self.gradient(model)
        norm = float(gradient.norm())
        point = Point(step, norm, {}, {})
        if self._lags is not None:
            while self._kept and self._kept[0][0] < step - max(self._lags):
                self._kept.popleft()
        for earlier, its_norm, other in reversed(self._kept):
            lag = step - earlier
            if (self._lags is None or lag in self._lags) and norm and its_norm:
                product = float(gradient.dot(other))
                point.cosine[lag] = product / (norm * its_norm)
                point.projection[lag] = product / norm**2
        self._kept.append((step, norm, gradient))
        return point

    def gradient(self, model: nn.Module) -> Tensor:
        """Return the gradient of the mean loss over the reference set: float64, with the numbers of all parameters that
        require a gradient."""
        import torch

        from lambdaml.training.calls import call
        from lambdaml.training.loss_parts import LossParts

        split = LossParts(f"{type(self._job).__name__}.loss").split
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        total = torch.zeros(sum(p.numel() for p in parameters), dtype=torch.float64, device=self._device)
        training = model.training
        model.eval()
        try:
            with torch.random.fork_rng(), torch.enable_grad():
                for number, (batch, share) in enumerate(self._batches):
                    torch.manual_seed(derive_seed(self._seed, number))
                    loss = split(call(self._job.loss, model, batch))
                    parts = torch.autograd.grad(loss, parameters, materialize_grads=True, allow_unused=True)
                    total += share * torch.cat([part.reshape(-1) for part in parts]).double()
        finally:
            model.train(training)
        return total


def measure_coherence(probe: Probe, states: Iterable[tuple[int, nn.Module]]) -> Coherence:
    """Measure a sequence of (step, model); the same module may come again with other weights."""
    return Coherence(tuple(probe.add(step, model) for step, model in states))


def coherence(
    run: RunReader,
    samples: int = SAMPLES,
    lags: Sequence[int] | None = None,
    *,
    device: str = "cpu",
    job: Job | None = None,
) -> Coherence:
    """Measure the coherence of a run from its snapshots. Lags are in versions, and none can be shorter than the
    interval between two snapshots.

    mu_k is then the least over the snapshots in its window. One thread computes it, as in functions.

    Args:
        run: The run.
        samples: The number of samples in the reference set.
        lags: The lags to measure; by default those between each snapshot and the `KEPT` before it.
        device: The torch device that computes.
        job: The run's job, if it was given as an instance and cannot be imported.

    Raises:
        JobError: If the run's job cannot be imported, or its code has changed.
        SettingsError: If the run keeps fewer than two snapshots.
    """
    with OneThread() as compute:
        return compute.submit(_of_run, run, job, samples, lags, device).result()


def _of_run(run: RunReader, job: Job | None, samples: int, lags: Sequence[int] | None, device: str) -> Coherence:
    from lambdaml.training.calls import call
    from lambdaml.training.streaming import load_into

    job = job or load_run_job(run.settings)
    found = [info.key for info in run.store.list(keys.SNAPSHOTS)]
    if len(found) < 2:
        raise SettingsError(f"{run.url} keeps {len(found)} snapshot: coherence compares at least two")
    model = call(job.model).to(device)

    def states() -> Iterator[tuple[int, nn.Module]]:
        for key in found:
            state = read_state(run.store, key)
            if state is not None:
                load_into(model, state)
                yield keys.number(key), model

    return measure_coherence(Probe(job, samples, lags, seed=run.settings.seed, device=device), states())


def sequential(job: Job, steps: int, *, seed: int = 0) -> Iterator[tuple[int, nn.Module]]:
    """Train with one worker and no store, and yield (step, model) before the first step and after each step.

    The model is the replica's own, so measure it before you ask for the next. Use this from one thread only, like a
    `Replica`.
    """
    from lambdaml.log.commits import averaged
    from lambdaml.options import RunOptions
    from lambdaml.settings import JobSettings
    from lambdaml.training.asked import settings_for
    from lambdaml.training.replica import Replica

    settings = settings_for(job, JobSettings(spec="none"), RunOptions(workers=1, steps=steps, seed=seed))
    replica = Replica(job, settings)
    yield 0, replica.model
    for step in range(steps):
        update = replica.update(0, step)
        replica.apply(averaged(step, step, [update]), {update.id: update})
        yield step + 1, replica.model


def _batches(job: Job, samples: int, size: int, seed: int, device: str) -> list[tuple[Any, float]]:
    """Return the reference set in batches on the device, each with its share of the samples."""
    from torch import Tensor
    from torch.utils import _pytree

    from lambdaml.training.calls import call, fetch

    dataset = call(job.dataset)
    order = np.random.RandomState(seed % 2**32).permutation(len(dataset))[:samples].tolist()
    parts = [order[start : start + size] for start in range(0, len(order), size)]
    batches = ((call(fetch, job, dataset, part), len(part) / len(order)) for part in parts)
    return [(_pytree.tree_map_only(Tensor, lambda t: t.to(device), batch), share) for batch, share in batches]
