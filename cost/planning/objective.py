"""A user's objective for a run: where it should end, by when, at what cost, and what to minimise within limits."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from lambdaml.cost.planning.candidates import SearchSpace
from lambdaml.simulation.regions import Placement

Aim = Literal["cost", "time", "balanced"]


@dataclass(frozen=True, slots=True)
class Objective:
    """The objective of a plan.

    Attributes:
        target: The target to which the profile's pilots trained, such as `accuracy>=0.95`, or None if `epochs` is
            given.
        epochs: The number of passes over the data after which the run ends, in place of a target.
        deadline_s, budget_usd: The seconds and the US dollars within which nine of ten runs must stay.
        minimise: The quantity to minimise; `balanced` stands for the product of time and cost.
        space: The candidates that may be chosen.
        stragglers: The model of slow functions, as `simulate` takes it.
        snapshot_every: The updates of a worker between snapshots, as in `train`. A run checks its target in snapshots
            only.
        remaining: The share of the steps that still has to be taken, if a run continues another one.
        regions, bucket_region, slow_link: The regions of functions and of the bucket, and a slow link, as `simulate`
            takes them.
    """

    target: str | None = None
    epochs: float | None = None
    deadline_s: float = math.inf
    budget_usd: float = math.inf
    minimise: Aim = "balanced"
    space: SearchSpace = field(default_factory=SearchSpace)
    stragglers: str = "none"
    snapshot_every: int | None = None
    remaining: float = 1.0
    regions: str | None = None
    bucket_region: str | None = None
    slow_link: str | None = None

    def placement(self, functions: int) -> Placement:
        """Return the regions of a candidate's functions.

        Raises:
            SettingsError: If they are given for another number of functions.
        """
        return Placement.parse(functions, self.regions, self.bucket_region, self.slow_link)

    @property
    def links_differ(self) -> bool:
        """Whether some functions reach the bucket over other links than others, or could."""
        return self.regions is not None or self.slow_link is not None

    @property
    def remaining_epochs(self) -> float | None:
        """The epochs that still have to be trained, or None if a target ends the run."""
        return self.epochs and self.epochs * self.remaining

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, without what was not asked for."""
        plain = {name: value for name, value in asdict(self).items() if value is not None and value != math.inf}
        space = {
            name: value for name, value in plain["space"].items() if name not in ("algorithms", "patterns") or value
        }
        return {**plain, "space": space}
