"""What somebody who looks at a run from outside has seen of it, as plain data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from lambdaml.log.summary import Staleness
from lambdaml.storage import MeterReading

Curve = tuple[tuple[int, float], ...]
"""Pairs of a version and a value, by rising version."""

SHOWN = 120
"""A curve has at most this many points."""


@dataclass(frozen=True, slots=True)
class SeenWorker:
    """A worker, as far as it was seen.

    Attributes:
        worker: The worker's number.
        seq: The number of its newest update with a fate that was seen, or None.
        version: The version that this update became part of, or None.
        age_s: The seconds since that was seen; they are too many by up to the time between two looks at the log.
        holder: The function that holds the worker; "" as long as it is not known.
        generation: The generation of that function's lease; 0 as long as it is not known.
        awaited: Whether the run waits for an update of it.
    """

    worker: int
    seq: int | None = None
    version: int | None = None
    age_s: float | None = None
    holder: str = ""
    generation: int = 0
    awaited: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """A run, as far as it was seen.

    Attributes:
        run: The run's URL.
        state: `running`, `stopped` if nobody works on it, or the reason why it ended, such as `steps` or `target`.
        schedule: The name of its schedule.
        target: The condition that ends it; "" if there is none.
        version: The newest version that was seen.
        commits: The number of log entries that are known to exist.
        progress: The share of the run that is done; it is finished at 1.
        stalled: Whether it is running and nothing has moved for much longer than usual.
        elapsed_s: The seconds from the first log entry to the newest one, by the store's clock.
        quiet_s: The seconds since anything moved.
        usual_s: The usual seconds between two commits, or None.
        left_s: The seconds that are left at the recent pace, or None if it is not known.
        loss: The training loss, as some of the log's entries have it.
        metrics: The curve of each metric.
        workers: All workers.
        staleness: The distribution over all updates that were seen.
        recent: The distribution over the latest ones.
        phases: The seconds of an update's life by phase (`compute`, `store`, `wait`), on average over those that
            functions reported lately; it is empty as long as none is known.
        reading: The requests that functions and launchers have reported.
        lifetimes_s: The seconds of each function, as far as they are reported.
        platform: The platform of the price book that the functions ran on; "" if they did not say.
        functions: The number of functions that have been heard of.
        died: The number of functions that could not report to their end.
        handovers: The number of times that a worker was seen to go from one function to another.
        refused: The number of refused updates that were seen, by fate.
        asked: The requests that looking at the run has taken.
        parts: The mean of each part of the loss that the job names, over the updates that functions reported lately.
    """

    run: str
    state: str
    schedule: str
    target: str
    version: int
    commits: int
    progress: float
    stalled: bool
    elapsed_s: float
    quiet_s: float
    usual_s: float | None
    left_s: float | None
    loss: Curve
    metrics: dict[str, Curve]
    workers: tuple[SeenWorker, ...]
    staleness: Staleness
    recent: Staleness
    phases: dict[str, float]
    reading: MeterReading
    lifetimes_s: tuple[float, ...]
    platform: str
    functions: int
    died: int
    handovers: int
    refused: dict[str, int]
    asked: MeterReading
    parts: dict[str, float] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        """Whether the run has ended, so that there will be nothing more to see."""
        return self.state not in ("running", "stopped")

    @property
    def awaited(self) -> tuple[SeenWorker, ...]:
        """The workers that the run waits for."""
        return tuple(worker for worker in self.workers if worker.awaited)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        record = asdict(self) | {"reading": self.reading.to_dict(), "asked": self.asked.to_dict()}
        return record | {"over": self.over}


def condensed(curve: Sequence[tuple[int, float]], most: int = SHOWN) -> Curve:
    """Return a curve with at most this many points: the means of neighbours, the last point as it is; points that are
    no finite number are left out."""
    finite = [(version, value) for version, value in curve if math.isfinite(value)]
    if len(finite) <= most:
        return tuple(finite)
    *rest, last = finite
    size = -(-len(rest) // (most - 1))
    pieces = [rest[start : start + size] for start in range(0, len(rest), size)]
    return (*((piece[-1][0], sum(value for _, value in piece) / len(piece)) for piece in pieces), last)
