"""The model of a run that its own trace gives: how long its work, its store and its starts took. It can be run again.

    recorded = record(run, rows, usage)                         # `lambdaml.cost.reporting.record`
    recorded.again().seconds                                    # about as long as the run took
    replace(recorded, starts_s=()).again().seconds              # the same with functions that start at once

`again` simulates a window of the run, with the schedule, the pattern and the algorithm that it really had, and extends
the window's pace to all of the run's updates. Where the run had few functions, every request of the window is simulated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, median, median_low
from typing import Any

from lambdaml.cost.billing.tariff import Quantities
from lambdaml.errors import SettingsError
from lambdaml.parts import Parts
from lambdaml.settings import Settings
from lambdaml.simulation.channel import Channel
from lambdaml.simulation.engine import VirtualRun
from lambdaml.simulation.flow import Flow
from lambdaml.simulation.platform import Platform, Uniform
from lambdaml.simulation.stub_replica import Costs

_REQUESTS = 2_000
"""A window of so many requests is simulated one by one, if that is not less than `_ROUNDS` rounds."""

_ROUNDS = (6, 30)
"""The least and the most rounds of a window."""


@dataclass(frozen=True, slots=True)
class Pace:
    """The gradients of each function as slow as they were. It is a `lambdaml.simulation.stragglers.Stragglers`.

    Attributes:
        factors: The factors by which each function's steps took longer than the nominal step, in ascending order.
    """

    factors: tuple[tuple[float, ...], ...]

    def factor(self, function_index: int, uniform: Uniform) -> float:
        mine = self.factors[function_index % len(self.factors)]
        return mine[int(uniform() * len(mine))]

    @property
    def medians(self) -> list[float]:
        """The median factor of each function."""
        return [median(each) for each in self.factors]

    def alike(self) -> Pace:
        """Return the pace if all functions were like the median one."""
        usual = median_low(self.medians)
        return Pace((next(each for each in self.factors if median(each) == usual),))

    def even(self) -> Pace:
        """Return the pace if all steps of a function took the same time."""
        return Pace(tuple((fmean(each),) for each in self.factors))


@dataclass(frozen=True, slots=True)
class Again:
    """The outcome of a simulated window, extended to the whole run.

    Attributes:
        start_s: The seconds until the slowest function had started.
        work_s: The seconds from then until the last function ended.
        used: The quantities that a bill of it would have, but for storage.
    """

    start_s: float
    work_s: float
    used: Quantities

    @property
    def seconds(self) -> float:
        """The seconds from asking for functions until the last of them ended."""
        return self.start_s + self.work_s


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """A run's own costs.

    Attributes:
        settings: The run's settings.
        functions: The number of functions that worked at once.
        updates: The number of updates that got a fate.
        span_s: The seconds from asking for functions until the last of them ended.
        costs: The seconds of its work at the pace of the usual function, and the bytes of its objects.
        pace: The factors by which functions were slower than that.
        channel: The latencies of its store, and the bandwidth of a connection.
        network_bytes_per_s: The bandwidth that all connections of a function shared; infinity if none is seen.
        starts_s: The seconds that each function took to start; empty if they started at once.
        exact: Whether every request of a window is simulated; if not, it is simulated in closed form where there is one.
        lost: The number of functions whose last report is missing.
    """

    settings: Settings
    functions: int
    updates: int
    span_s: float
    costs: Costs
    pace: Pace
    channel: Channel
    network_bytes_per_s: float = math.inf
    starts_s: tuple[float, ...] = field(default=())
    exact: bool = True
    lost: int = 0

    @property
    def slowest(self) -> tuple[list[int], float]:
        """The workers of the slowest function, and how many times as long as usual its steps took."""
        medians = self.pace.medians
        index = medians.index(max(medians))
        workers = list(range(index, self.settings.workers, len(medians)))
        return workers, medians[index] / max(median_low(medians), 1e-9)

    def with_settings(self, **changes: Any) -> RecordedRun:
        """Return the run with other settings, in the bracket that goes with them."""
        return replace(self, settings=self.settings.model_copy(update={"bracket": None, **changes}))

    def lasting_s(self, again: Again, base: Again) -> float:
        """Return the seconds of a changed run at the scale of the run itself, given the outcome without the change.

        What was simulated of the work is as much too short or too long for both; starts are as they were measured.
        """
        return again.start_s + again.work_s * max(0.0, self.span_s - base.start_s) / max(base.work_s, 1e-9)

    def again(self) -> Again:
        """Simulate the run.

        All functions of the window start at once; the run is longer by the slowest start.

        Raises:
            SettingsError: If there is no such run, or it cannot be simulated.
        """
        least, most = _ROUNDS
        if not self.exact:
            try:
                return self._in_closed_form(Flow(*self._window(most)))
            except SettingsError:
                pass  # there is no closed form for it
        rounds = _REQUESTS // (2 * self.functions * self.settings.workers)
        return self._by_request(VirtualRun(*self._window(max(least, min(most, rounds)))))

    def _window(self, rounds: int) -> tuple[Settings, int, Costs, Channel, Platform, Pace]:
        """Return what a simulation of the run's first rounds is made of. All clients take part in them."""
        window = self.settings.model_copy(update={"steps": min(self.settings.steps, rounds), "without": []})
        Parts.of(window)  # or it raises SettingsError
        platform = Platform("recorded", bandwidth_bytes_per_s=self.network_bytes_per_s)
        return window, self.functions, self.costs, self.channel, platform, self.pace

    def _by_request(self, virtual: VirtualRun) -> Again:
        virtual.run()
        moments = [(commit.time_s, len(commit.entries)) for commit in virtual.log()]
        read = virtual.run_of().requests()
        lasted = [life.ended_s or virtual.kernel.now for life in virtual.lives]
        return self._extended(moments, lasted, read.requests, (read.bytes_sent, read.bytes_received))

    def _in_closed_form(self, flow: Flow) -> Again:
        moments: list[tuple[float, int]] = []
        flow.on_commit = lambda now, commit: moments.append((now, len(commit.entries)))
        found = flow.run()
        lasted = [found.seconds, *[found.function_seconds / self.functions] * (self.functions - 1)]
        return self._extended(moments, lasted, found.requests, (found.bytes_sent, found.bytes_received))

    def _extended(
        self,
        moments: Sequence[tuple[float, int]],
        lasted_s: Sequence[float],
        requests: Mapping[str, int],
        moved: tuple[int, int],
    ) -> Again:
        """Return the outcome for all updates, given when a window's commits were made, and of how many updates each."""
        made = sum(count for _, count in moments)
        first_s, first = moments[0]
        pace_s = (moments[-1][0] - first_s) / max(1, made - first)
        more_s, times = pace_s * (self.updates - made), self.updates / made
        sent, received = (round(times * size) for size in moved)
        counted = {kind: round(times * count) for kind, count in requests.items()}
        worked = [max(0.0, seconds + more_s) for seconds in lasted_s]
        start_s = max(self.starts_s, default=0.0)
        lives = [start_s + seconds for seconds in worked]
        return Again(start_s, max(worked), Quantities(lives, counted, sent, received))
