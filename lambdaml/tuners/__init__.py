"""Tuners: how a number of a run's parts changes while the run goes on. Each has a file of its own.

A tuner turns one *knob*, a number with which the run's codec or algorithm trades bytes for accuracy. Now and then the
model of one worker travels: all workers judge it on data of their own, and the tuner is told how much less accurate it is
elsewhere than at home, and what was sent since it was last asked (`lambdaml.log.tuning`).

A tuner has no clock and makes no requests. What it remembers stands in the log, so that every function takes the same
decision, and takes it again after a crash. To add one, write a file with a class that has the members of `Tuner`, and
add one line to `TUNERS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from lambdaml.registry import Registry

STEPS = "steps"
"""The name of the knob that says how many batches an update covers."""


@dataclass(frozen=True, slots=True)
class Knob:
    """A positive number of a part that may change while a run goes on. The greater it is, the less is sent.

    Attributes:
        name: The name of the number among the part's parameters. Control entries have it.
        value: The value with which a run begins.
        whole: Whether it is a whole number of at least 1. What a tuner decides is rounded to one.
    """

    name: str
    value: float
    whole: bool = False


def knob_of(part: object) -> Knob | None:
    """Return the knob of a part, or None if it has none. It is the part's `knob`."""
    knob: Knob | None = getattr(part, "knob", None)
    return knob


@dataclass(frozen=True, slots=True)
class Observation:
    """What was seen with one value of a knob.

    Attributes:
        loss: The accuracy loss: the accuracy of a worker's own model on its own data, less the mean of that on the data
            of each other worker.
        sent: The mean size of an update, as a share of the whole model's; for each of its batches, if the knob is their
            number.
    """

    loss: float
    sent: float


class Tuner(Protocol):
    """Decides what a knob's value is.

    Attributes:
        every: The number of rounds from one travelling model to the next.
        samples: The number of samples on which each worker judges it, or as many as it has.
    """

    every: int
    samples: int

    def turn(self, knob: Knob, state: dict[str, Any], seen: Observation) -> tuple[dict[str, Any], float]:
        """Return what the tuner knows from now on, and the knob's next value.

        Args:
            knob: The knob, as the run began with it.
            state: The state that the tuner returned last; empty at first. It holds what JSON can.
            seen: The observation with the knob's present value.
        """


TUNERS: Registry[Tuner] = Registry("tuner", {"skewscout": "lambdaml.tuners.skewscout:SkewScout"})
