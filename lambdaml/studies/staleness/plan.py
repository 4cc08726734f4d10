"""The plan of a study: its options, its settings, and the units of work into which they are divided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from lambdaml.errors import SettingsError, nearest
from lambdaml.studies.staleness.algorithms import UPDATE_RULES
from lambdaml.studies.staleness.models import StudyData, model_named
from lambdaml.traces import Trace
from lambdaml.traces.delays import Categorical, Delays, Geometric

_DELAYS = ("categorical", "geometric", "trace:FILE")


@dataclass(frozen=True, slots=True)
class StudyPlan:
    """The options of a study.

    Attributes:
        models: The names of the models.
        algorithms: The names of the algorithms, which are keys of `UPDATE_RULES`.
        staleness: The values of s, which always include 0. With `geometric`, delays have mean s / 2, as those of
            `categorical` have; with a trace, every s > 0 is replaced by the recorded one.
        workers: The numbers of workers to try.
        delays: The kind of delays, one of `_DELAYS`.
        seeds: The number of seeds.
        data: The data; see `StudyData`.
        longest: The multiple of the iterations at s = 0 after which a setting is given up.
        tune: Whether to find learning rates first, rather than take those of the table.

    Raises:
        SettingsError: If an option does not exist or does not fit.
    """

    models: tuple[str, ...] = ("mlr", *(f"dnn{depth}" for depth in range(1, 7)))
    algorithms: tuple[str, ...] = tuple(UPDATE_RULES)
    staleness: tuple[int, ...] = (0, 4, 8, 16, 32)
    workers: tuple[int, ...] = (8,)
    delays: str = "categorical"
    seeds: int = 3
    data: StudyData = "bundled"
    longest: float = 10.0
    tune: bool = False

    def __post_init__(self) -> None:
        for model in self.models:
            model_named(model)
        for algorithm in self.algorithms:
            if algorithm not in UPDATE_RULES:
                raise SettingsError(f"there is no algorithm {algorithm!r}{nearest(algorithm, UPDATE_RULES)}")
        if min(self.staleness, default=0) < 0 or min(self.workers, default=0) < 1 or self.seeds < 1:
            raise SettingsError("staleness must be 0 or more, workers and seeds 1 or more")
        if not self.models or not self.algorithms or self.longest < 1:
            raise SettingsError("name a model and an algorithm; the limit must be at least 1 times s = 0")
        if self.data not in get_args(StudyData):
            raise SettingsError(f"there is no data {self.data!r}{nearest(self.data, get_args(StudyData))}")
        make_delays(self.delays, 1)

    def values(self) -> tuple[int, ...]:
        """Return the distinct staleness values above 0. With a trace, its largest delay is the only one."""
        if self.delays.startswith("trace:") and self.workers:
            return tuple(sorted({recorded(self.delays, workers).largest for workers in self.workers} - {0}))
        return tuple(sorted(set(self.staleness) - {0}))

    def pairs(self) -> list[tuple[str, str, int]]:
        """Return (model, algorithm, workers) of each bar of the figures. Gibbs sampling is LDA's only algorithm."""
        return [
            (model, algorithm, workers)
            for workers in self.workers
            for model in self.models
            for algorithm in (self.algorithms if model_named(model).make else ("gibbs",))
        ]


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit of work: settings of one model and algorithm, computed at once and in the order of `settings`.

    Attributes:
        model: The name of the model.
        algorithm: The name of the algorithm.
        workers: The number of workers.
        delays: The kind of delays; see `StudyPlan`.
        data: The data; see `StudyData`.
        settings: The (s, seed, rate, limit of iterations, target) of each setting.
    """

    model: str
    algorithm: str
    workers: int
    delays: str
    data: StudyData
    settings: tuple[tuple[int, int, float, int, float], ...]


@dataclass(frozen=True, slots=True)
class TraceDelays:
    """Recorded delays, repeated.

    A trace knows one receiver, the log, so an update comes equally late to all caches.

    Attributes:
        delays: For each worker, the delays of its updates in their order, in iterations.
    """

    delays: tuple[tuple[int, ...], ...]

    @property
    def largest(self) -> int:
        """The largest recorded delay, in iterations."""
        return max(max(mine) for mine in self.delays)

    def matrix(self, iteration: int, senders: int, receivers: int, seed: int = 0) -> NDArray[np.int64]:
        """Return an iteration's delays, as `lambdaml.traces.delays.Delays` does. Seeds begin in different places."""
        start = [97 * seed + iteration + len(self.delays[0]) * (p // len(self.delays)) // 2 for p in range(senders)]
        rows = [self.delays[p % len(self.delays)] for p in range(senders)]
        sent = np.array([mine[begin % len(mine)] for mine, begin in zip(rows, start)], np.int64)
        return np.repeat(sent[:, None], receivers, 1)


def make_delays(kind: str, s: int) -> Delays:
    """Return the delay model for one value of s; see `StudyPlan`.

    Raises:
        SettingsError: If there is no such kind.
        UserError: If the trace cannot be read.
    """
    name, _, path = kind.partition(":")
    if s == 0 and name in ("categorical", "geometric", "trace"):
        return Categorical(0)
    if kind == "categorical":
        return Categorical(s)
    if kind == "geometric":
        return Geometric(s / 2)
    if name == "trace" and path:
        return recorded(kind)
    raise SettingsError(f"there are no delays {kind!r} (there is: {', '.join(_DELAYS)})")


@cache
def recorded(kind: str, _workers: int = 0) -> TraceDelays:
    """Return the delays of a trace's applied updates, in iterations.

    The staleness of a trace counts optimizer steps, whereas P updates are an iteration here. An update that was tau
    steps late, where a step takes U updates, is therefore floor(tau * U / P) iterations late. (P equal asynchronous
    workers have tau = P - 1 and delays of 0: in one iteration, too, each worker computes without the P - 1 other
    updates.)

    Raises:
        UserError: If the file is not a trace, or holds no applied update.
    """
    trace = Trace.load(kind.partition(":")[2])
    applied = [row for row in trace.rows if row["fate"] == "applied"]
    if not applied:
        raise SettingsError(f"{kind}: no update was applied in this trace")
    share = len(applied) / len({row["version"] for row in applied}) / trace.workers
    found: dict[int, list[int]] = {}
    for row in applied:
        found.setdefault(row["worker"], []).append(int(row["staleness"] * share + 1e-9))
    return TraceDelays(tuple(tuple(found[worker]) for worker in sorted(found)))


def split(settings: Sequence[tuple[int, int, float, int, float]], floats: int) -> list[tuple[int, ...]]:
    """Choose which settings to compute at once: as many of neighbouring s as fit into a core's cache.

    Args:
        floats: The number of floats in the caches of one setting.
    """
    each = max(1, min(len(settings), 500_000 // floats))
    return [tuple(range(len(settings))[first : first + each]) for first in range(0, len(settings), each)]
