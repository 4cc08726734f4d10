"""Which runs are those of plain federated averaging, and what is read back of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lambdaml.errors import SettingsError
from lambdaml.influence.federated import FederatedRun
from tests.lambdaml.influence.little import OWNERS, Little, trained
from tests.lambdaml.lab import Made, Tiny, train

AVERAGING = {"workers": 4, "algorithm": "local:2", "steps": 2, "keep": "all"}
OTHERS = {
    "asp": ({"schedule": "asp"}, "schedule 'asp' has no rounds of the newest model: train with bsp or cohort:K"),
    "gradient": ({"algorithm": "gradient"}, "algorithm 'gradient' does not average displacements: train with local:H"),
    "models": ({"algorithm": "local:2,sends=models"}, "does not average displacements"),
    "keep": ({"algorithm": "local:2,inner=keep"}, "remember something between rounds: train with local:H alone"),
    "auto": ({"algorithm": "local:auto,most=2"}, "remember something between rounds"),
    "sum": (
        {"algorithm": "local:2,outer=sum"},
        "the outer optimizer of .* does more than take the mean: use outer=aver",
    ),
    "sgd": ({"algorithm": "local:2,outer=sgd:0.5"}, "the outer optimizer of .* does more than take the mean"),
    "adam": ({"algorithm": "local:2,outer=adam"}, "the outer optimizer of .* does more than take the mean"),
    "median": ({"aggregate": "median"}, "aggregate 'median' is no weighted mean: use mean"),
    "inverse": ({"staleness": "inverse"}, "staleness rule 'inverse' weighs or changes updates: use constant"),
    "topk": (
        {"codec": "topk:0.5"},
        "codec 'topk:0.5' with error feedback sends what earlier rounds left: use fp32 or bf16",
    ),
}


@pytest.mark.parametrize(("options", "reason"), OTHERS.values(), ids=OTHERS.keys())
def test_a_run_of_anything_else_than_averaging_is_refused_by_name(options: dict[str, Any], reason: str) -> None:
    job = Made()
    run = train(job, **(AVERAGING | options))
    with pytest.raises(SettingsError, match=f"^influence is measured in runs of federated averaging, and .*{reason}"):
        FederatedRun(run, job)


STEPS = {
    "momentum": (Tiny(), "Tiny.optimizer.. has momentum"),
    "Adam": (Made(optimizer=lambda parameters: torch.optim.Adam(parameters)), "Made.optimizer.. is Adam"),
    "maximize": (Made(optimizer=lambda ps: torch.optim.SGD(ps, lr=0.01, maximize=True)), "optimizer.. has maximize"),
    "clip_norm": (Made(clip_norm=1.0), "Made has clip_norm"),
    "autocast": (Made(autocast="bfloat16"), "Made has autocast"),
}


@pytest.mark.parametrize(("job", "reason"), STEPS.values(), ids=STEPS.keys())
def test_local_steps_other_than_plain_sgd_are_refused_by_name(job: Any, reason: str) -> None:
    run = train(job, **AVERAGING)
    with pytest.raises(SettingsError, match=f"^influence is measured where local steps are plain SGD, and .*{reason}$"):
        FederatedRun(run, job)


def test_running_statistics_are_refused() -> None:
    job = Made(model=lambda: nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)))
    federated = FederatedRun(train(job, **AVERAGING), job)
    with pytest.raises(SettingsError, match="forward passes change buffers, such as BatchNorm's running statistics"):
        next(federated.rounds())


def test_complex_parameters_are_refused() -> None:
    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        return (model(batch[0].to(torch.complex64)).abs() ** 2).mean()

    job = Made(model=lambda: nn.Linear(6, 3, dtype=torch.complex64), loss=loss)
    with pytest.raises(SettingsError, match="where parameters are real numbers, and this model has complex ones"):
        FederatedRun(train(job, **AVERAGING), job)


def test_a_run_whose_beginning_was_deleted_is_refused() -> None:
    run = train(job := Made(), **AVERAGING | {"steps": 60, "keep": 16, "snapshot_every": 4})
    assert run.gc() >= 0
    with pytest.raises(SettingsError, match=r"history begins at \d+: train with --keep all, or with --extra"):
        FederatedRun(run, job)


def test_a_version_that_is_not_there_is_refused() -> None:
    federated = FederatedRun(trained(job := Little(), steps=3), job)
    with pytest.raises(SettingsError, match="this run has no version 7 yet: the last is 3"):
        list(federated.rounds(7))


def test_rounds_say_who_took_part_with_how_many_samples_and_how_far_the_model_went() -> None:
    job = Little()
    run = trained(job, steps=4)
    federated, moved = FederatedRun(run, job), torch.zeros(43, dtype=torch.float64)
    begun, taken = federated.weights(), set()
    for found in federated.rounds():
        assert [turn.weight for turn in found.turns] == [OWNERS.count(turn.client) for turn in found.turns]
        size = sum(turn.weight for turn in found.turns)
        moved += sum(turn.weight / size * turn.moved for turn in found.turns)
        taken |= {turn.client for turn in found.turns}
    torch.testing.assert_close(federated.weights(), begun + moved)
    assert len(taken) > 2 and federated.clients == 5
    assert [federated.samples(client) for client in range(5)] == [OWNERS.count(client) for client in range(5)]


def test_rates_are_those_of_each_parameter_group_and_zero_where_no_gradient_comes() -> None:
    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        weight, bias = parameters
        return torch.optim.SGD([{"params": [weight], "weight_decay": 0.1}, {"params": [bias], "lr": 0.5}], lr=0.2)

    job = Made(optimizer=optimizer)
    federated = FederatedRun(train(job, **AVERAGING), job)
    rate, decay = federated.rates(0)
    assert rate.tolist() == pytest.approx([0.2] * 18 + [0.5] * 3)
    assert decay.tolist() == pytest.approx([0.1] * 18 + [0.0] * 3)
    assert federated.rates(0, frozenset({0}))[0].tolist() == pytest.approx([0.0] * 18 + [0.5] * 3)
