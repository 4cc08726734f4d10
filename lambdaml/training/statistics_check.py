"""Checks what the user's `statistics` returned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lambdaml.errors import JobError


def check_statistics(found: Any, parameters: Mapping[str, Tensor], where: str) -> tuple[float, list[Tensor]]:
    """Return the sum of the objective, and the sums of the statistics in the order of the parameters.

    Args:
        found: The value that was returned.
        parameters: The trained parameters, by their names.
        where: The name of the method, for messages.

    Raises:
        JobError: If this is no scalar and a real tensor of its shape for each parameter; the message names what is wrong.
    """
    if not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], Mapping)):
        raise JobError(
            f"{where} must return two sums, of the objective and of the statistics by name, not {described(found)}"
        )
    objective, sums = found
    if not (isinstance(objective, Tensor) and objective.numel() == 1):
        raise JobError(f"{where} must return the objective's sum as a scalar tensor, not {described(objective)}")
    if missing := sorted(parameters.keys() - sums.keys()):
        raise JobError(f"{where} returns no statistic {missing[0]!r}, which is a parameter of the model")
    if unknown := sorted(map(str, sums.keys() - parameters.keys())):
        raise JobError(f"{where} returns {unknown[0]!r}, which is no trained parameter of the model")
    for name, parameter in parameters.items():
        given = sums[name]
        if not isinstance(given, Tensor) or given.shape != parameter.shape or given.is_complex():
            raise JobError(
                f"{where} returns {described(given)} as {name!r}, not a real tensor of shape {tuple(parameter.shape)}"
            )
    return float(objective), [sums[name] for name in parameters]


def described(value: Any) -> str:
    """Return what a value is, for messages."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"a {'complex ' if value.is_complex() else ''}tensor of shape {tuple(value.shape)}"
