"""Training without clients, side by side, against plain loops."""

from __future__ import annotations

import secrets
from typing import Any

import pytest
import torch

import lambdaml
from lambdaml.errors import SettingsError
from lambdaml.influence.federated import FederatedRun
from lambdaml.influence.truth import Retraining
from tests.lambdaml.influence.little import Little, trained, without

SETS = [[], [0], [1, 4], [3]]


def retrained(job: Little, options: dict[str, Any], since: int = 0) -> tuple[FederatedRun, Retraining]:
    federated, retraining = FederatedRun(trained(job, **options), job), None
    for found in federated.rounds():
        if federated.replica.version == since:
            retraining = Retraining(federated, SETS)
        if retraining is not None:
            retraining.advance(found)
    assert retraining is not None
    return federated, retraining


@pytest.mark.parametrize("job", [Little(), Little(decay=0.05, falls=True)], ids=["plain", "decay and a schedule"])
@pytest.mark.parametrize("schedule", ["cohort:2", "bsp"])
def test_models_side_by_side_are_those_of_plain_loops_without_the_clients(job: Little, schedule: str) -> None:
    federated, retraining = retrained(job, {"schedule": schedule, "steps": 5})
    run = trained(job, schedule=schedule, steps=5)
    for number, left_out in enumerate(SETS):
        torch.testing.assert_close(retraining.models[number], without(job, run, left_out), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(retraining.models[0], federated.weights(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("schedule", ["cohort:2", "cohort:1", "bsp"])
def test_models_side_by_side_are_those_of_reruns_without_the_clients(schedule: str) -> None:
    job = Little(decay=0.01, falls=True, drops=0.3)
    run = trained(job, schedule=schedule, steps=5)
    federated = FederatedRun(run, job)
    retraining = Retraining(federated, SETS)
    for found in federated.rounds():
        retraining.advance(found)
    for model, left_out in zip(retraining.models, SETS, strict=True):
        url = f"memory://{secrets.token_hex(6)}"
        run.rerun(url, left_out, engine="inline")
        rerun = torch.nn.utils.parameters_to_vector(lambdaml.Run(url, job).model().parameters())
        torch.testing.assert_close(model, rerun.detach(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("drops", [0.0, 0.5])
def test_a_loss_that_looks_at_a_value_is_computed_one_model_after_the_other(drops: float) -> None:
    together, alone = (retrained(Little(plain=plain, drops=drops), {})[1] for plain in (True, False))
    assert together._together and alone._together is False
    torch.testing.assert_close(together.models, alone.models, rtol=1e-9, atol=1e-12)


def test_clients_can_be_left_out_from_a_version_on() -> None:
    federated, retraining = retrained(Little(), {"steps": 6}, since=4)
    _, whole = retrained(Little(), {"steps": 6})
    torch.testing.assert_close(retraining.models[0], federated.weights(), rtol=1e-9, atol=1e-12)
    late, early = ((each.models - federated.weights()).norm(dim=1) for each in (retraining, whole))
    assert (late <= early).all() and late[1] < 0.9 * early[1]


def test_a_codec_that_rounds_is_refused() -> None:
    job = Little()
    job.model = lambda: Little.model(job).float()  # type: ignore[method-assign]
    job.dataset = lambda: torch.utils.data.TensorDataset(
        *(t.float() if t.is_floating_point() else t for t in Little().dataset().tensors)
    )  # type: ignore[method-assign]
    federated = FederatedRun(trained(job, codec="bf16", steps=1), job)
    with pytest.raises(SettingsError, match="codec 'bf16' rounds them: repeat the run with 'lambdaml rerun"):
        Retraining(federated, SETS)
