"""The parts of a loss that a job names.

`loss` may return a dict of scalars. Its entry "loss" is what is differentiated, and the others are reported: their means
over the samples of an update stand in the update's row of the trace.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from lambdaml.errors import JobFailed
from lambdaml.training.statistics_check import described

LOSS = "loss"
"""The entry of the dict that is differentiated."""

MOST = 32
"""A loss has at most this many parts beside it, since each update's row of the trace holds them."""


class LossParts:
    """Adds up the parts of the losses of an update.

    Args:
        what: The name of the job's method, for messages.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._latest: dict[str, float] = {}
        self._sums: dict[str, tuple[float, int]] = {}

    def split(self, found: Any) -> Tensor:
        """Take what the job's method returned; return the tensor to be differentiated, and keep the rest until `count`.

        Raises:
            JobFailed: If it is no scalar tensor and no dict of scalars that has one.
        """
        self._latest = {}
        loss = found
        if isinstance(found, dict):
            if LOSS not in found:
                names = ", ".join(map(str, found)) or "nothing"
                raise JobFailed(
                    f"{self._what} returned a dict without 'loss', which is what is differentiated: {names}"
                )
            if len(found) > MOST + 1:
                raise JobFailed(f"{self._what} returned {len(found) - 1} parts beside 'loss': {MOST} are carried")
            loss = found[LOSS]
            self._latest = {str(name): self._scalar(str(name), value) for name, value in found.items() if name != LOSS}
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            where = " as its 'loss'" if isinstance(found, dict) else ""
            raise JobFailed(f"{self._what} must return a scalar tensor{where}, not {described(loss)}")
        return loss

    def _scalar(self, name: str, value: Any) -> float:
        if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex():
            return float(value.detach())
        if isinstance(value, int | float):
            return float(value)
        raise JobFailed(f"{self._what}: the part {name!r} must be a scalar, not {described(value)}")

    def count(self, samples: int) -> None:
        """Count the latest loss, which is the mean over so many samples."""
        for name, value in self._latest.items():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = total + samples * value, count + samples

    def take(self) -> dict[str, float | None]:
        """Return the mean of each part since the last call; None for one that is not finite."""
        means = {name: total / count for name, (total, count) in self._sums.items()}
        self._sums = {}
        return {name: mean if math.isfinite(mean) else None for name, mean in means.items()}
