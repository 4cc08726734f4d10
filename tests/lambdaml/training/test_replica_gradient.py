"""The gradient of one update: half precision, errors in the loss, and the random streams that a job draws from."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lambdaml.algorithms import Assignment
from lambdaml.errors import JobFailed
from lambdaml.training.job_model import JobModel
from tests.lambdaml.lab import Made, replica_of, update_of
from tests.lambdaml.training.test_replica import mlp, momentum, normed


def test_half_precision_gradients_are_those_of_single_precision_whatever_the_scale() -> None:
    """float16 has no number below 6e-8: only the scaling of the loss lets small gradients through."""

    def small(model: nn.Module, batch: Any) -> torch.Tensor:
        return nn.functional.cross_entropy(model(batch[0]).float(), batch[1]) * 1e-5

    half, single = (replica_of(Made(mlp, momentum, loss=small, autocast=cast)) for cast in ("float16", None))
    found, expected = update_of(half, 0, 0), update_of(single, 0, 0)
    scale = np.abs(expected.body["gradient"]).max()
    assert scale < 1e-4
    np.testing.assert_allclose(found.body["gradient"] / scale, expected.body["gradient"] / scale, atol=2e-2)
    assert found.loss == pytest.approx(expected.loss, rel=1e-2)


@pytest.mark.parametrize("name", ["mlp", "batch norm"])
def test_a_loss_scale_that_overflows_is_halved_until_it_fits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the first scales the gradient is infinite; the one that is published is finite and right."""
    scales: list[float] = []

    class Half(JobModel):
        def _pass(self, batch: Any, scale: float) -> Any:
            scales.append(scale)
            found = super()._pass(batch, scale)
            if scale > 2.0**12:
                self.flat.host[3] = math.inf
            return found

    model = mlp if name == "mlp" else normed
    job = Made(model, momentum, autocast="float16")
    monkeypatch.setattr("lambdaml.training.replica.JobModel", Half)
    replica = replica_of(job)
    state = replica.state().digest()
    found = update_of(replica, 0, 0)
    assert scales == [2.0**16, 2.0**15, 2.0**14, 2.0**13, 2.0**12]
    assert replica.check(found) == ""
    assert replica.state().digest() == state
    plain = update_of(replica_of(Made(model, momentum)), 0, 0)
    scale = np.abs(plain.body["gradient"]).max()
    np.testing.assert_allclose(found.body["gradient"] / scale, plain.body["gradient"] / scale, atol=5e-2)
    if name == "batch norm":
        assert found.body["b2"].view(np.int64).tolist() == [1]


def test_a_half_precision_gradient_that_no_scale_makes_finite_is_rejected_and_does_not_hang() -> None:
    def broken(model: nn.Module, batch: Any) -> torch.Tensor:
        return model(batch[0]).float().sum() * math.nan

    replica = replica_of(Made(mlp, momentum, loss=broken, autocast="float16"))
    assert replica.check(update_of(replica, 0, 0)) != ""


def test_an_error_in_the_jobs_loss_names_its_line() -> None:
    def broken(model: nn.Module, batch: Any) -> torch.Tensor:
        return model(batch[0][:, :2])

    with pytest.raises(JobFailed, match=r"RuntimeError: .*test_replica_gradient.py:\d+\)") as caught:
        replica_of(Made(loss=broken)).compute(Assignment(0, 0, 0, 1))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [lambda m, b: 1.5, lambda m, b: m(b[0]), lambda m, b: None])
def test_a_loss_that_is_no_scalar_tensor_is_refused(value: Any) -> None:
    with pytest.raises(JobFailed, match="must return a scalar tensor, not"):
        replica_of(Made(loss=value)).compute(Assignment(0, 0, 0, 1))


def test_a_loss_that_does_not_depend_on_the_model_is_refused() -> None:
    with pytest.raises(JobFailed):
        replica_of(Made(loss=lambda model, batch: torch.tensor(1.0))).compute(Assignment(0, 0, 0, 1))


def test_what_the_job_draws_from_global_random_streams_is_the_same_for_every_replica() -> None:
    import random

    def noisy(model: nn.Module, batch: Any) -> torch.Tensor:
        noise = random.random() + np.random.random() + torch.rand(()).item()
        return nn.functional.cross_entropy(model(batch[0]), batch[1]) * noise

    one, two = (replica_of(Made(loss=noisy), workers=2) for _ in range(2))
    first = update_of(one, 0, 0)
    two.compute(Assignment(1, 5, 5, 1))
    random.seed(), np.random.seed(), torch.manual_seed(99)
    assert update_of(two, 0, 0).body["gradient"].tobytes() == first.body["gradient"].tobytes()
    assert one.compute(Assignment(0, 1, 1, 1)).loss != one.compute(Assignment(1, 0, 0, 1)).loss
