"""The linear jobs have the objectives of scikit-learn, and ADMM finds their minima.

Coefficients may differ by 1e-3 at most, or by 1e-3 of the largest of them if that is more than 1.
"""

from __future__ import annotations

import secrets
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import linear_model, svm
from torch.nn import functional as F

import lambdaml
import lambdaml.jobs
from lambdaml.errors import JobError
from lambdaml.jobs.data import product
from lambdaml.jobs.linear import DecayingSGD, LinearJob, LinearSVM, LogisticRegression, Ridge

WHOLE = 10**6
"""With this batch size a batch is all of a worker's share."""

MADE: dict[type[LinearJob], Any] = {
    LogisticRegression: lambda job: linear_model.LogisticRegression(C=job.C, tol=1e-10, max_iter=10_000),
    Ridge: lambda job: linear_model.Ridge(alpha=job.alpha, tol=1e-12),
    LinearSVM: lambda job: svm.LinearSVC(C=job.C, loss="hinge", tol=1e-10, max_iter=10**7, random_state=0),
}


def matrix(job: LinearJob) -> np.ndarray:
    return product(job.table.rows, torch.eye(job.table.features)).double().numpy()


def reference(job: LinearJob) -> tuple[np.ndarray, np.ndarray]:
    """The weights and the intercepts that scikit-learn finds."""
    found = MADE[type(job)](job).fit(matrix(job), job.table.targets.numpy())
    return np.atleast_2d(found.coef_).T, np.atleast_1d(found.intercept_)


CASES: dict[str, tuple[LinearJob, str, int]] = {
    "logistic, dense": (LogisticRegression("generated:800,10", lr=2.0, batch_size=WHOLE), "admm:0.03,steps=30", 40),
    "logistic, sparse": (
        LogisticRegression("generated:800,30,density=0.2", lr=4.0, batch_size=WHOLE),
        *("admm:0.03,steps=30", 40),
    ),
    "softmax, dense": (
        LogisticRegression("generated:800,10,classes=3", lr=1.5, batch_size=WHOLE),
        "admm:0.03,steps=30",
        40,
    ),
    "softmax, sparse": (
        LogisticRegression("generated:800,30,density=0.2,classes=3", lr=2.5, batch_size=WHOLE),
        *("admm:0.03,steps=40", 50),
    ),
    "hinge, dense": (LinearSVM("generated:800,10", C=0.02, batch_size=WHOLE), "admm:0.3,steps=20", 130),
    "hinge, sparse": (
        LinearSVM("generated:800,20,density=0.3", C=0.02, batch_size=WHOLE),
        *("admm:0.3,steps=30", 100),
    ),
    "ridge, dense": (Ridge("generated:800,10", batch_size=WHOLE), "admm:0.1,steps=30", 45),
    "ridge, sparse": (Ridge("generated:800,30,density=0.2", alpha=3.0, batch_size=WHOLE), "admm:0.1,steps=30", 40),
}


@pytest.mark.parametrize("workers", [1, 8])
@pytest.mark.parametrize("case", CASES)
def test_admm_finds_the_coefficients_of_scikit_learn(case: str, workers: int) -> None:
    job, algorithm, rounds = CASES[case]
    url = f"memory://{secrets.token_hex(6)}"
    options = {"workers": workers, "steps": rounds, "snapshot_every": rounds, "algorithm": algorithm}
    lambdaml.train(job, url, functions=1, engine="inline", **options)
    found = [parameter.detach().numpy() for parameter in lambdaml.Run(url, job).model().parameters()]
    expected = reference(job)
    limit = 1e-3 * max(1.0, *(np.abs(each).max() for each in expected))
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape and np.abs(one - other).max() <= limit


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("kind", MADE)
def test_the_objective_is_that_of_scikit_learn_and_nothing_near_its_minimum_is_less(
    kind: type[LinearJob], classes: int
) -> None:
    job = kind(f"generated:300,6,classes={classes}")
    x, y, generator = matrix(job), job.table.targets, torch.Generator().manual_seed(1)
    weights, intercepts = (torch.tensor(each, dtype=torch.float32) for each in reference(job))
    model = job.model()
    model.load_state_dict({"weight": weights, "bias": intercepts})
    least = job.evaluate(model)["objective"]
    scores = torch.tensor(x) @ weights.double() + intercepts.double()
    squares, n = float(weights.double().square().sum()), 300
    if kind is Ridge:
        expected = float((scores[:, 0] - y).square().sum() + job.alpha * squares) / (2 * n)
    elif kind is LinearSVM:
        signs = F.one_hot(y, classes) * 2 - 1 if classes > 2 else (2 * y - 1)[:, None]
        squares += float(intercepts.double().square().sum())
        expected = (job.C * float((1 - signs * scores).clamp_min(0).sum()) + squares / 2) / (job.C * n)
    elif classes > 2:
        expected = (job.C * float(F.cross_entropy(scores, y, reduction="sum")) + squares / 2) / (job.C * n)
    else:
        expected = (job.C * float(F.softplus(-(2 * y - 1) * scores[:, 0]).sum()) + squares / 2) / (job.C * n)
    assert least == pytest.approx(expected, rel=1e-5)
    for _ in range(50):
        with torch.no_grad():
            for parameter, best in zip(model.parameters(), (weights, intercepts), strict=True):
                parameter.copy_(best + 0.01 * torch.randn(best.shape, generator=generator))
        assert job.evaluate(model)["objective"] > least - 1e-7


def test_a_decaying_rate_is_what_the_formula_says_and_survives_a_stop() -> None:
    parameter = torch.nn.Parameter(torch.zeros(3))
    optimizer = DecayingSGD([parameter], lr=0.5, decay=0.1)
    expected = 0.0
    for step in range(6):
        if step == 3:
            state = optimizer.state_dict()
            optimizer = DecayingSGD([parameter], lr=9.0, decay=9.0)
            optimizer.load_state_dict(state)
        parameter.grad = torch.ones(3)
        optimizer.step()
        expected -= 0.5 / (1 + 0.1 * step)
    assert parameter.tolist() == pytest.approx([expected] * 3)


def test_the_metrics_are_shares_of_right_rows_and_of_the_variance() -> None:
    for kind, name in ((LogisticRegression, "accuracy"), (LinearSVM, "accuracy"), (Ridge, "r2")):
        for source in ("generated:300,6", "generated:300,6,classes=3,density=0.6"):
            job = kind(source)
            model, found = job.model(), MADE[kind](job).fit(matrix(job), job.table.targets.numpy())
            weights, intercepts = np.atleast_2d(found.coef_).T, np.atleast_1d(found.intercept_)
            model.load_state_dict({"weight": torch.tensor(weights), "bias": torch.tensor(intercepts)})
            score = found.score(matrix(job), job.table.targets.numpy())
            assert job.evaluate(model)[name] == pytest.approx(score, abs=1e-5)


@pytest.mark.parametrize("name", ["LogisticRegression", "Ridge", "LinearSVM"])
@pytest.mark.parametrize("data", ["generated:200,5", "generated:200,9,density=0.3"])
def test_they_are_named_on_the_command_line_and_learn_with_several_functions(name: str, data: str) -> None:
    url = f"memory://{secrets.token_hex(6)}"
    options = {"workers": 2, "epochs": 3, "engine": "inline", "functions": 2}
    for algorithm in ("admm:1", "gradient", "local:epochs=1"):
        lambdaml.train(
            f"lambdaml.jobs:{name}", f"{url}-{algorithm}", algorithm=algorithm, args={"data": data}, **options
        )
        run = lambdaml.Run(f"{url}-{algorithm}")
        metrics, job = run.metrics(), getattr(lambdaml.jobs, name)(data)
        assert metrics[max(metrics)]["objective"] < 0.9 * job.evaluate(job.model())["objective"]
        assert run.verify(deep=1.0).faults == []


@pytest.mark.parametrize("arguments", [{"C": 0.0}, {"C": -1.0}, {"C": float("inf")}])
def test_a_strength_that_makes_no_sense_is_refused(arguments: dict[str, Any]) -> None:
    for kind in (LogisticRegression, LinearSVM):
        with pytest.raises(JobError, match="C must be more than 0"):
            kind(**arguments)
    with pytest.raises(JobError, match="alpha must be more than 0"):
        Ridge(alpha=arguments["C"])


def test_naming_the_package_loads_no_torch() -> None:
    code = "import lambdaml.jobs, sys; assert 'torch' not in sys.modules; assert 'Ridge' in dir(lambdaml.jobs)"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="Lasso"):
        _ = lambdaml.jobs.Lasso
