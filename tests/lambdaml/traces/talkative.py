"""A job that says which samples it computes with; functions import this file by its path."""

from __future__ import annotations

import logging
import os
import sys
import time
from typing import Any

import torch
from torch import nn
from torch.utils.data import TensorDataset

import lambdaml

print("imported")


class Talkative(lambdaml.Job):
    """A linear model on the numbers 0 ... 63. A step takes `seconds`, sample `fails` cannot be computed with, and only the
    process that starts a run has the data if they are `away`."""

    batch_size = 8

    def __init__(self, quiet: bool = False, seconds: float = 0.0, fails: int = -1, away: bool = False) -> None:
        self.quiet, self.seconds, self.fails, self.away = quiet, seconds, fails, away

    def model(self) -> nn.Module:
        return nn.Linear(1, 1)

    def dataset(self) -> TensorDataset:
        if self.away and "LAMBDAML_FUNCTION" in os.environ:
            raise FileNotFoundError("numbers.csv is not here")
        return TensorDataset(torch.arange(64.0)[:, None])

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        (x,) = batch
        if not self.quiet:
            print("samples", *sorted(int(value) for value in x))
            print("on stderr", file=sys.stderr)
            logging.getLogger("talkative").warning("logged")
        if self.fails in x:
            raise ValueError(f"no sample {self.fails}")
        time.sleep(self.seconds)
        return (model(x / 64) ** 2).mean()

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        if not self.quiet:
            print("evaluated")
        return {"weight": float(next(model.parameters()).sum())}
