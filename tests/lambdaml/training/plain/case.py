"""The job that all comparisons train, put together from its parts, and its data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from lambdaml import Job

SAMPLES = 40
BATCH_SIZE = 8


def points() -> TensorDataset:
    """The same points on every call: 5 batches of 8."""
    generator = torch.Generator().manual_seed(3)
    return TensorDataset(torch.randn(SAMPLES, 8, generator=generator), torch.arange(SAMPLES) % 3)


def cross_entropy(model: nn.Module, batch: Any) -> Tensor:
    return functional.cross_entropy(model(batch[0]).float(), batch[1])


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(trainable(model), lr=0.1, momentum=0.9, weight_decay=0.01)


class Case(Job):
    """A job that is put together from its parts. `attributes` are those of `Job`, such as `clip_norm`."""

    batch_size = BATCH_SIZE

    def __init__(
        self,
        model: Callable[[], nn.Module],
        optimizer: Callable[[nn.Module], Any] = sgd,
        scheduler: Callable[[Any], Any] = lambda optimizer: None,
        loss: Callable[[nn.Module, Any], Tensor] = cross_entropy,
        dataset: Callable[[], Any] = points,
        **attributes: Any,
    ) -> None:
        self._model, self._optimizer, self._scheduler = model, optimizer, scheduler
        self._loss, self._dataset = loss, dataset
        for name, value in attributes.items():
            setattr(self, name, value)

    def model(self) -> nn.Module:
        return self._model()

    def dataset(self) -> Any:
        return self._dataset()

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return self._loss(model, batch)

    def optimizer(self, model: nn.Module) -> Any:
        return self._optimizer(model)

    def scheduler(self, optimizer: Any) -> Any:
        return self._scheduler(optimizer)


def tokens(x: Tensor) -> Tensor:
    """Points as words of a vocabulary of 10."""
    return (x.abs() * 4).long().clamp(max=9)
