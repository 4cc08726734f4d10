"""Staleness rules: how much an update counts, given how stale it is. Each has a file of its own.

A rule sees only what the log holds, so that every replica gets the same weight and the same state. To add one, write a
subclass of `Rule` that overrides what it needs, in a file of its own, and add one line to `RULES`.

| a rule that ...                                   | overrides          | example           |
|---------------------------------------------------|--------------------|-------------------|
| weighs an update by its staleness                 | `weight`           | `inverse`         |
| looks at more of the update's line in the log     | `judge`            | `exponential`     |
| does not use some updates at all                  | `judge`            | `discard`         |
| looks at the log state                            | `weight` or `judge`| `exponential`     |
| compares label counts                             | `labels`           | `exponential`     |
| changes gradients, or remembers them              | `transform`        | `dc`, `ringleader`|
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from lambdaml.codecs import Vector
from lambdaml.log.records import Entry
from lambdaml.log.state import LogState
from lambdaml.registry import Registry

STALE = "stale"
"""The reason in the log entry of an update that a rule discarded."""


Terms = tuple[list[tuple[Vector, float]], float]
"""Vectors with their weights, and what their weighted sum is divided by."""


class Transform(Protocol):
    """Changes gradients for a rule, inside a replica. Its state is a pure function of the log and the updates."""

    def begin(self, version: int, parameters: Callable[[], Vector]) -> None:
        """Note that a commit which takes steps is about to be applied to this version.

        Updates are computed from such versions only. `parameters` returns a copy of the trained parameters as they are
        at the moment.
        """

    def terms(
        self, entries: Sequence[Entry], gradients: Sequence[Vector], divisor: float, parameters: Callable[[], Vector]
    ) -> Terms:
        """Return the terms of the next step's gradient with their weights, and what their sum is divided by.

        They are summed in this order, and the sum is divided once, as in `lambdaml.log.commits.summed`. No terms mean that
        the step changes no parameter.

        Args:
            entries: The step's entries. The weight of each is its factor in the plain sum.
            gradients: The gradients of the entries. They are read-only and must not be kept after the call.
            divisor: The divisor of the plain sum.
        """

    def state(self) -> dict[str, Vector]:
        """Return everything that the transform remembers, by name, for a snapshot. The arrays are copies."""

    def load(self, state: Mapping[str, Vector]) -> None:
        """Go on from what `state` returned."""


class Rule:
    """A staleness rule. This base class lets every update count in full.

    Attributes:
        labels: Whether updates carry the label counts of their samples; see `Job.labels`.
        needs: The set of what the run's algorithm must give: `lambdaml.algorithms.GRADIENT`, or nothing.
        gives: The set of what the rule gives: `lambdaml.algorithms.MOMENTUM`, or nothing.
    """

    labels: bool = False
    needs: frozenset[str] = frozenset()
    gives: frozenset[str] = frozenset()

    def weight(self, staleness: int, log_state: LogState) -> float:
        """Return the factor of a gradient that is `staleness` optimizer steps old. It is 1 for a fresh gradient."""
        return 1.0

    def judge(self, entry: Entry, log_state: LogState) -> float | None:
        """Return the weight of an update, or None to discard it. `log_state` is the one before the deciding commit."""
        return self.weight(entry.staleness, log_state)

    def transform(self, workers: int, batch_size: int) -> Transform | None:
        """Return a fresh transform for a replica, or None if this rule only weighs and discards updates."""
        return None


RULES: Registry[Rule] = Registry(
    "staleness rule",
    {
        "constant": "lambdaml.staleness.constant:Constant",
        "inverse": "lambdaml.staleness.inverse:Inverse",
        "sqrt": "lambdaml.staleness.sqrt:Sqrt",
        "polynomial": "lambdaml.staleness.polynomial:Polynomial",
        "hinge": "lambdaml.staleness.hinge:Hinge",
        "exponential": "lambdaml.staleness.exponential:Exponential",
        "adaptive": "lambdaml.staleness.adaptive:Adaptive",
        "discard": "lambdaml.staleness.discard:Discard",
        "ringmaster": "lambdaml.staleness.ringmaster:Ringmaster",
        "dc": "lambdaml.staleness.dc:Dc",
        "dc-a": "lambdaml.staleness.dc:DcAdaptive",
        "ringleader": "lambdaml.staleness.ringleader:Ringleader",
        "nesterov": "lambdaml.staleness.nesterov:Nesterov",
    },
)
