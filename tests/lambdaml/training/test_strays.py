"""Numbers in plain attributes that a forward pass changes are told of, once."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import lambdaml
from lambdaml.events import Event
from tests.lambdaml.lab import memory
from tests.lambdaml.training.test_replica import Made


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)
        self.calls = 0
        self.scale = 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.width = x.shape[1]
        return self.linear(x)


class Sloppy(Made):
    seen = 0

    def __init__(self) -> None:
        super().__init__(lambda: nn.Sequential(Counting()), lambda ps: torch.optim.SGD(ps, lr=0.1))
        self.steps = 0

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        self.steps += 1
        return super().loss(model, batch)


def test_plain_numbers_that_the_loss_changes_are_told_of_and_no_others() -> None:
    events: list[Event] = []
    lambdaml.train(Sloppy(), memory().url, workers=2, steps=3, functions=1, on_event=events.append)
    said = {event.text.split(" changed ")[0] for event in events if event.event == "warning"}
    assert said == {"Sloppy.steps", "Counting 0.calls"}
