"""The step of a job that has statistics and no gradient, in the dress of an optimizer of torch.

So it has all that other steps have: a learning-rate schedule, `lambdaml set RUN lr=X`, and a place in snapshots.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class Maximisation(Optimizer):
    """Takes a step along the mean statistics that stand in the place of the parameters' gradients.

    Args:
        model: The model.
        maximise: A function that is given the model and the new means by the parameters' names, and sets the parameters.
        rate: The share of the statistics in the new means, the rest being the parameters.
    """

    def __init__(
        self, model: nn.Module, maximise: Callable[[nn.Module, Mapping[str, Tensor]], None], rate: float
    ) -> None:
        named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        super().__init__(list(named.values()), {"lr": rate})
        self._model, self._maximise, self._named = model, maximise, named

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take the step."""
        rate, means = self.param_groups[0]["lr"], {}
        for name, parameter in self._named.items():
            if parameter.grad is not None:
                means[name] = parameter.grad if rate == 1.0 else (1 - rate) * parameter + rate * parameter.grad
        self._maximise(self._model, means)
