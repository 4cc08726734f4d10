"""Says whether a metric gets better, and when it no longer does.

A run that has a target is judged by the target's metric in the target's direction. Any other is judged by the first metric
that the job reports: less is better for a loss, an error or a distance, by its name, and more is better for all else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lambdaml.settings import parse_target

_LESS = {"loss", "error", "err", "mse", "mae", "rmse", "nll", "perplexity", "ppl", "distance", "dual", "primal"}
"""Less is better for metrics whose name has one of these words."""


@dataclass(frozen=True, slots=True)
class Yardstick:
    """The metric by which a run is judged.

    Attributes:
        name: The name of the metric.
        less: Whether less is better.
    """

    name: str
    less: bool

    @staticmethod
    def of(name: str, target: str | None = None) -> Yardstick:
        """Return the metric of this name with its direction, which is the target's if that is about this metric."""
        if target is not None:
            of_target, comparison, _ = parse_target(target)
            if of_target == name:
                return Yardstick(name, comparison.startswith("<"))
        return Yardstick(name, not _LESS.isdisjoint(re.split(r"[\W_]+", name.lower())))

    @staticmethod
    def of_run(names: Iterable[str], target: str | None) -> Yardstick | None:
        """Return what a run is judged by whose job reports metrics of these names; None if it reports none."""
        name = parse_target(target)[0] if target is not None else next(iter(names), None)
        return None if name is None else Yardstick.of(name, target)

    def no_gain(self, patience: int) -> str:
        """Say that the metric has not improved for so many evaluations."""
        return f"{self.name} has not improved for {patience} evaluation{'s' if patience > 1 else ''}"

    @property
    def better(self) -> str:
        """The word `less` or `more`, whichever is better."""
        return "less" if self.less else "more"

    def gains(self, metrics: Mapping[int, Mapping[str, float]]) -> list[tuple[int, float]]:
        """Return the version and the value of each evaluation that is better than all before it, in their order.

        Args:
            metrics: The metrics of each evaluated snapshot, by version. A value that is not finite is never better.
        """
        found: list[tuple[int, float]] = []
        for version in sorted(metrics):
            value = metrics[version].get(self.name, math.nan)
            if math.isfinite(value) and (not found or (value < found[-1][1] if self.less else value > found[-1][1])):
                found.append((version, value))
        return found

    def best(self, metrics: Mapping[int, Mapping[str, float]]) -> tuple[int, float] | None:
        """Return the version and the value of the best evaluation, the first of equal ones; None if none is finite."""
        return next(reversed(self.gains(metrics)), None)

    def runs_out(self, metrics: Mapping[int, Mapping[str, float]], patience: int) -> int | None:
        """Return the version at which the metric has not improved for `patience` evaluations for the first time, or
        None."""
        gains, since = {version for version, _ in self.gains(metrics)}, 0
        for version in sorted(metrics):
            since = 0 if version in gains else since + 1
            if since >= patience:
                return version
        return None
