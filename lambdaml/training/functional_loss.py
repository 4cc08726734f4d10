"""The job's loss as a function of the trained parameters, for transformations of `torch.func`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from lambdaml.job import Job
    from lambdaml.training.job_model import JobModel

_ALIKE, _ROUNDING = 1e-3, 16
"""Two vectors are alike if their numbers differ by at most this share of the largest one, and so many times a rounding."""


def alike(found: Tensor, due: Tensor, rounded: float | Tensor = 1.0) -> bool:
    """Return whether a transformed computation gave what a plain one does, up to rounding.

    Args:
        found: The result of the transformed computation, or several rows that must all be alike.
        due: The result of the plain one.
        rounded: The magnitude of the numbers whose rounding makes the difference.
    """
    rounding = _ROUNDING * torch.finfo(due.dtype).eps * rounded
    return bool((found - due).abs().max() <= _ALIKE * due.abs().max() + rounding)


class FunctionalLoss:
    """Returns the loss of a batch at a flat vector of trained parameters. Buffers are those of the model.

    Args:
        local: The model and its job.
    """

    def __init__(self, local: JobModel) -> None:
        names = [f"model.{name}" for name, each in local.model.named_parameters() if each.requires_grad]
        self._places = list(zip(names, local.layout.spans, local.flat.parameters, strict=True))
        self._module = _Loss(local.job, local.model)

    def __call__(self, values: Tensor, batch: Any) -> Tensor:
        own = {name: values[span].view(each.shape).to(each.dtype) for name, span, each in self._places}
        found: Tensor = torch.func.functional_call(self._module, own, (batch,))
        return found


class _Loss(nn.Module):
    """The job's loss as a module, whose parameters are the model's."""

    def __init__(self, job: Job, model: nn.Module) -> None:
        super().__init__()
        self._job, self.model = job, model

    def forward(self, batch: Any) -> Any:
        found = self._job.loss(self.model, batch)
        return found["loss"] if isinstance(found, Mapping) else found
