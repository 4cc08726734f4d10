"""The gradient noise scale, where it is known in closed form."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from lambdaml import Job
from lambdaml.cost.profiling.noise import LEAST_BATCHES, Noise, estimate_noise, layout
from lambdaml.options import RunOptions
from lambdaml.training.asked import resolve_job, settings_for
from lambdaml.training.replica import Replica

DIMENSIONS, SAMPLES = 10, 4000
SIGMAS = np.linspace(0.5, 2.0, DIMENSIONS)


class Quadratic(Job):
    """loss = |w - x|^2 / 2: a sample's gradient is w - x, so G = w - E x and Sigma = Cov x, wherever w is."""

    def __init__(self, batch_size: int = 20, distance: float = 1.0) -> None:
        self.batch_size, self.distance = batch_size, distance

    def model(self) -> nn.Module:
        model = nn.Linear(DIMENSIONS, 1, bias=False)
        nn.init.constant_(model.weight, self.distance)
        return model

    def dataset(self) -> Dataset[Any]:
        draws = np.random.RandomState(0).normal(size=(SAMPLES, DIMENSIONS)) * SIGMAS
        return TensorDataset(torch.tensor(draws - draws.mean(0), dtype=torch.float32))

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return (next(model.parameters()) - batch[0]).square().sum(1).mean() / 2

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.01)


def noise(job: Job, batches: int = 32) -> Noise:
    job_settings, _ = resolve_job(job, {})
    return Noise(Replica(job, settings_for(job, job_settings, RunOptions(workers=1, steps=10))), batches)


def test_both_terms_are_found_without_bias() -> None:
    """Over draws of gradients with known mean and covariance, both estimates are right on average."""
    draw = np.random.default_rng(1)
    mean = np.full(DIMENSIONS, 0.3)
    sizes = [3, 4, 4, 5]
    found = []
    for _ in range(5_000):
        samples = mean + SIGMAS * draw.normal(size=(sum(sizes), DIMENSIONS))
        parts = [part.mean(0) for part in np.split(samples, np.cumsum(sizes)[:-1])]
        whole = samples.mean(0)
        found.append(estimate_noise([float(part @ part) for part in parts], sizes, float(whole @ whole)))
    gradient_sq, trace = np.mean(found, axis=0)
    assert trace == pytest.approx((SIGMAS**2).sum(), rel=0.03)
    assert gradient_sq == pytest.approx(float(mean @ mean), rel=0.1)


def test_of_a_quadratic_it_is_the_trace_over_the_square() -> None:
    measured = noise(Quadratic(batch_size=100, distance=1.0))
    for _ in range(8):
        measured.add()
    found = measured.result()
    trace = float((SIGMAS**2).sum())
    assert np.mean([point.trace_sigma for point in found.points]) == pytest.approx(trace, rel=0.15)
    assert np.mean([point.gradient_sq for point in found.points]) == pytest.approx(DIMENSIONS, rel=0.05)
    assert found.samples == pytest.approx(trace / DIMENSIONS, rel=0.2)
    assert (found.small_batch, found.large_batch, found.batches) == (100, 3200, 32)


def test_at_the_optimum_the_gradient_drowns_and_that_is_said() -> None:
    measured = noise(Quadratic(batch_size=2, distance=0.0), batches=4)
    scales = [measured.add().noise_scale_samples for _ in range(20)]
    assert None in scales
    known = [scale for scale in scales if scale is not None]
    assert all(scale > 0 for scale in known)


def test_measuring_leaves_the_replica_as_it_was() -> None:
    measured = noise(Quadratic())
    replica = measured._replica
    before, sampler = replica.state().digest(), replica.sampler
    measured.add()
    assert replica.state().digest() == before and replica.sampler is sampler
    assert measured.gradients == 32


@pytest.mark.parametrize(
    ("samples", "batch_size", "small", "count"),
    [(1437, 32, 32, 32), (100, 32, 25, LEAST_BATCHES), (10_000, 32, 32, 32), (3, 32, 1, 3), (2, 1, 1, 2)],
)
def test_small_batches_fit_into_the_data(samples: int, batch_size: int, small: int, count: int) -> None:
    assert layout(samples, batch_size) == (small, count)


def test_one_sample_has_no_noise_scale() -> None:
    with pytest.raises(ValueError, match="at least two samples"):
        layout(1, 1)
