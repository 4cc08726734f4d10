"""Rejected updates: the limit is a rate, and messages say which samples to look at."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import lambdaml
from lambdaml.errors import RunFailed
from lambdaml.events import Event
from lambdaml.job import Job
from tests.lambdaml.lab import memory


class Spoilt(Job):
    """64 samples, some of which are not numbers."""

    batch_size = 8

    def __init__(self, bad: Any = (40,)) -> None:
        self.bad = list(bad)

    def model(self) -> nn.Module:
        return nn.Linear(4, 1)

    def dataset(self) -> Any:
        x = torch.ones(64, 4)
        x[self.bad] = float("nan")
        return TensorDataset(x, torch.ones(64, 1))

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        return (model(batch[0]) - batch[1]).pow(2).mean()

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.05)


@pytest.mark.parametrize("schedule", ["bsp", "asp"])
def test_one_bad_sample_does_not_end_a_run_and_is_named(schedule: str) -> None:
    events: list[Event] = []
    result = lambdaml.train(
        Spoilt(), memory().url, workers=2, epochs=12, schedule=schedule, functions=1, on_event=events.append
    )
    assert result.stop == "steps" and result.fates["rejected"] == 12
    assert "computed from sample 40, among others" in result.rejections
    said = [line for event in events if event.event == "commit" for line in event.rejected]
    assert len(said) == 12 and all("samples" in line and "40" in line and "of worker" in line for line in said)


def test_a_worker_whose_data_is_bad_is_named_when_the_run_stops() -> None:
    with pytest.raises(
        RunFailed, match=r"diverged: of \d+ updates 10 rejected \(loss is not finite\).*update \d+ of worker"
    ):
        lambdaml.train(Spoilt(bad=range(0, 64, 2)), memory().url, workers=2, epochs=50, functions=1)


def test_a_run_of_which_nothing_was_applied_fails() -> None:
    with pytest.raises(
        RunFailed, match="nothing was learned: of 4 updates none was applied; 4 rejected .*loss is not finite"
    ):
        lambdaml.train(Spoilt(bad=range(64)), memory().url, workers=2, steps=2, functions=1)
