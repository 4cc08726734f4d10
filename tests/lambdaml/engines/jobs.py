"""Jobs that engines are tried with; functions import this file by its path."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn
from torch.utils.data import TensorDataset

import lambdaml


class Points(lambdaml.Job):
    """A linear model on 64 points; a step takes `seconds` and no core, and the loss raises from step `fails` on."""

    batch_size = 8

    def __init__(self, seconds: float = 0.0, fails: int = 10**9) -> None:
        self.seconds = seconds
        self.fails = fails
        self.steps = 0

    def model(self) -> nn.Module:
        return nn.Linear(6, 3)

    def dataset(self) -> TensorDataset:
        stream = torch.Generator().manual_seed(7)
        return TensorDataset(torch.randn(64, 6, generator=stream), torch.arange(64) % 3)

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        self.steps += 1
        if self.steps > self.fails:
            print("here it fails")
            raise ValueError("no more of this")
        time.sleep(self.seconds)
        x, y = batch
        return nn.functional.cross_entropy(model(x), y)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        x, y = self.dataset().tensors
        return {"accuracy": (model(x).argmax(1) == y).float().mean().item()}
