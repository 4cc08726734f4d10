"""Gaussian mixtures, beside scikit-learn's."""

from __future__ import annotations

import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import mixture

from lambdaml.errors import JobError
from lambdaml.jobs import GaussianMixture
from lambdaml.jobs.mixture import Mixture
from tests.lambdaml.jobs.rows import as_libsvm, blobs, digits
from tests.lambdaml.jobs.test_kmeans import train

JOB, PASSES = "lambdaml.jobs:GaussianMixture", 10


def theirs(model: Any, rows: np.ndarray[Any, Any], covariance: str, floor: float) -> float:
    """The log-likelihood of a sample that scikit-learn reaches from this model."""
    assert isinstance(model, Mixture)
    weights, means, spread = (value.detach().numpy() for value in model.components())
    given: dict[str, Any] = {
        "weights_init": weights,
        "means_init": means + model.origin.numpy(),
        "precisions_init": 1 / spread if covariance == "diag" else np.linalg.inv(spread),
    }
    made = mixture.GaussianMixture(
        len(weights), covariance_type=covariance, tol=0, reg_covar=floor, max_iter=PASSES, **given
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it has not converged
        return float(made.fit(rows).score(rows))


@pytest.mark.parametrize("covariance", ["diag", "full"])
@pytest.mark.parametrize("workers", [1, 8])
def test_the_likelihood_is_scikit_learns_after_as_many_passes_from_the_same_beginning(
    covariance: str, workers: int
) -> None:
    run, result = train(JOB, workers=workers, args={"covariance": covariance, "floor": 1e-3}, epochs=PASSES)
    rows = digits().double().numpy()
    wanted = theirs(run.model(0), rows, covariance, 1e-3)
    assert result.metrics["log_likelihood"] == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("covariance", ["diag", "full"])
def test_the_likelihood_never_falls_and_the_data_may_be_far_from_zero(covariance: str, tmp_path: Path) -> None:
    found = []
    for offset in (0.0, 4096.0):
        np.save(tmp_path / "rows.npy", (blobs() * 8).round().numpy() / 8 + offset)
        args = {"components": 3, "covariance": covariance, "data": str(tmp_path / "rows.npy")}
        run, result = train(JOB, workers=3, args=args, epochs=PASSES)
        losses = [loss / count for loss, count in _losses(run)]
        assert len(losses) == PASSES
        assert all(after <= before + 1e-12 for before, after in pairwise(losses))
        found.append(result.metrics["log_likelihood"])
    assert found[0] == pytest.approx(found[1], rel=1e-9)


def _losses(run: Any) -> list[tuple[float, int]]:
    rounds: dict[int, tuple[float, int]] = {}
    for row in run.trace():
        loss, count = rounds.get(row["version"], (0.0, 0))
        rounds[row["version"]] = loss + row["loss"] * row["samples"], count + row["samples"]
    return [rounds[version] for version in sorted(rounds)]


def test_sparse_rows_make_the_same_mixture(tmp_path: Path) -> None:
    found = []
    for data in ("digits", as_libsvm(digits(), tmp_path / "rows.libsvm")):
        _, result = train(JOB, workers=2, args={"data": data}, epochs=2)
        found.append(result.metrics["log_likelihood"])
    assert found[0] == pytest.approx(found[1], rel=1e-12)


def test_a_component_without_samples_does_no_harm() -> None:
    job, rows = GaussianMixture(2), blobs(groups=1).double()
    model = Mixture(torch.stack([rows.mean(0), rows.mean(0) + 1e6]), rows.var(0), torch.zeros(4), 1e-6)
    _, sums = job.statistics(model, rows)
    optimizer = job.optimizer(model)
    for name, parameter in model.named_parameters():
        parameter.grad = sums[name] / len(rows)
    optimizer.step()
    weights, means, spread = model.components()
    assert weights[0] == 1 and weights[1] < 1e-300
    torch.testing.assert_close(means[0], rows.mean(0))
    torch.testing.assert_close(spread[0], rows.var(0, correction=0) + 1e-6)
    assert torch.isfinite(job.statistics(model, rows)[0])


def test_a_floor_below_zero_is_refused() -> None:
    with pytest.raises(JobError, match="floor must be at least 0, not -1"):
        train(JOB, workers=1, args={"floor": -1.0})
