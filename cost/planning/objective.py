"""What a user wants of a run: where it shall end, by when, for how much, and what to minimise within these limits."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from lambdaml.cost.planning.candidates import SearchSpace

Aim = Literal["cost", "time", "balanced"]


@dataclass(frozen=True, slots=True)
class Objective:
    """The objective of a plan.

    Attributes:
        target: The target, such as `accuracy>=0.95`, that the profile's pilots trained to; or None if `epochs` is given.
        epochs: The number of passes over the data after which the run ends, in place of a target.
        deadline_s, budget_usd: The seconds and the US dollars that nine of ten runs must keep within.
        minimise: The quantity that is made small; `balanced` stands for the product of time and cost.
        space: The candidates that may be chosen.
        stragglers: The model of slow functions, as `simulate` takes it.
        snapshot_every: The updates of a worker between snapshots, as in `train`. A run looks for its target in snapshots
            only.
        remaining: The share of the steps that is still to be taken, where a run goes on from another one.
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

    @property
    def remaining_epochs(self) -> float | None:
        """The epochs that are still to be trained, or None where a target ends the run."""
        return self.epochs and self.epochs * self.remaining

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; what was not asked for is left out."""
        return {name: value for name, value in asdict(self).items() if value is not None and value != math.inf}
