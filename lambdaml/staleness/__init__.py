"""Staleness rules: what becomes of an update, given how stale it is. One file each.

A rule sees only what the log holds, so that every replica comes to the same weight and the same state. To add one: a
subclass of `Rule` in a file of its own, which overrides what it needs, and one line in `RULES`.

| a rule that ...                                   | overrides          | example           |
|---------------------------------------------------|--------------------|-------------------|
| weighs an update by its staleness                 | `weight`           | `inverse`         |
| looks at more of the update's line in the log     | `judge`            | `exponential`     |
| does not use some updates at all                  | `judge`            | `discard`         |
| looks at what the log says so far                 | either, by `log_state`  | `exponential`     |
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
"""The reason of an update that a rule discarded."""


class Transform(Protocol):
    """What a rule makes of gradients, inside a replica. Its state is a pure function of the log and the updates."""

    def begin(self, version: int, parameters: Callable[[], Vector]) -> None:
        """A commit that takes steps is about to be applied to this version; updates are computed from such only.

        `parameters` makes a copy of the trained parameters as they are at the moment.
        """

    def terms(
        self, entries: Sequence[Entry], gradients: Sequence[Vector], parameters: Callable[[], Vector]
    ) -> list[tuple[Vector, float]]:
        """The next step's gradient as a weighted sum, to be taken in this order; empty: change no parameter.

        `gradients` are those of the step's entries, read-only, and may not outlive the call.
        """

    def state(self) -> dict[str, Vector]:
        """Everything it remembers, by name, for a snapshot; arrays of their own."""

    def load(self, state: Mapping[str, Vector]) -> None:
        """Go on from what `state` gave."""


class Rule:
    """What becomes of stale updates. This one lets all of them count in full.

    Attributes:
        labels: whether updates are to carry the label counts of their samples; see `Job.labels`.
    """

    labels: bool = False

    def weight(self, staleness: int, log_state: LogState) -> float:
        """What to multiply a gradient with that is `staleness` optimizer steps old. 1 for a fresh one."""
        return 1.0

    def judge(self, entry: Entry, log_state: LogState) -> float | None:
        """The weight of an update, or None to discard it. `log_state` is the run before the commit that decides it."""
        return self.weight(entry.staleness, log_state)

    def transform(self, workers: int) -> Transform | None:
        """A fresh one for a replica, if this rule does more than weigh."""
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
