"""A cap stops a run, in good order, before the run has spent more than it may.

Whoever starts a run may give a cap, which is called at each commit and a few times a second. It gets not what has been
spent, but what will have been spent if the run is stopped now, including the current round, the one that may begin
before functions hear of the stop, and the cost of winding down. So the cap is hardly ever exceeded, and by no more than
one round's spending. A round is N updates: one commit of `bsp`, N of `asp`.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from lambdaml.engines import Enough, LaunchSpec
from lambdaml.engines.accounts import Accounts
from lambdaml.errors import RunCapped
from lambdaml.events import Event
from lambdaml.parts import Parts
from lambdaml.schedules import SCHEDULES
from lambdaml.schedules.groups import Groups
from lambdaml.storage import MeterReading
from lambdaml.worker.requests import (
    LEAVE,
    RECALL,
    REMEMBER,
    START,
    SUCCEED,
    Exchanged,
    count_requests,
    exchanged,
    grouped,
)

REACTION_S = 0.25
"""If functions are in other processes, this much time passes from telling an engine to make them leave until no further
round begins. Functions in this process report each commit themselves, and hear at once."""

REPLAY_SHARE = 0.1
"""The replay of a round is assumed to take this share of the round's time: it computes no gradient and fetches many
updates at once."""

WINDOW_S = 5.0
"""Rounds are measured over this much recent time, or over one round if that takes longer."""

_PAUSE_S = 0.005
"""At least this much time passes between two calls of the cap; commits may follow each other faster."""


@dataclass(frozen=True, slots=True)
class Spent:
    """Holds what a run has spent in all calls of `train` and `resume`; only `seconds` and `commits` are about this
    call.

    Attributes:
        seconds: The wall time of this call.
        run_seconds: The wall time of all calls.
        lifetimes_s: How long each function lasted since it was asked for.
        reading: The requests by kind, the errors and the bytes of functions and of the processes that started them.
        commits: The number of commits that this call has seen.
    """

    seconds: float
    run_seconds: float
    lifetimes_s: tuple[float, ...]
    reading: MeterReading
    commits: int

    @property
    def function_seconds(self) -> float:
        """The lifetimes of all functions together."""
        return math.fsum(self.lifetimes_s)

    @property
    def invocations(self) -> int:
        """The number of functions that were started."""
        return len(self.lifetimes_s)


Cap = Callable[[Spent], str | None]
"""A cap returns why the run must stop, or None."""


@runtime_checkable
class WrittenCap(Protocol):
    """A cap that can be written down, so that functions keep it where the process that started them may be gone."""

    def to_dict(self) -> dict[str, Any]:
        """Return the cap as plain values, for JSON."""


def portion_of(reading: MeterReading, share: float) -> MeterReading:
    """Return this share of all requests and bytes, rounded up. Failed requests count as requests of their kind."""
    requests = Counter(reading.requests)
    for name, count in reading.errors.items():
        requests[name.partition("/")[0]] += count
    return MeterReading(
        {kind: math.ceil(count * share) for kind, count in requests.items()},
        bytes_sent=math.ceil(reading.bytes_sent * share),
        bytes_received=math.ceil(reading.bytes_received * share),
    )


@dataclass(frozen=True, slots=True)
class _Sample:
    """Holds what had been spent when this many updates had their fate."""

    at: float
    updates: int
    reading: MeterReading


class Judge:
    """Calls the cap of one call of `train` or `resume`.

    Args:
        cap: The cap.
        launch: The run and the number of its functions.
        accounts: The accounts of this call.
        snapshot: The version of the run's newest snapshot.
        in_process: Whether the functions are in this process; see `REACTION_S`.

    Attributes:
        reason: Why the run must stop, once the cap has said so.
    """

    def __init__(self, cap: Cap, launch: LaunchSpec, accounts: Accounts, snapshot: int, in_process: bool) -> None:
        self.reason: str | None = None
        self._cap = cap
        self._settings = launch.settings
        self._remembers = Parts.of(launch.settings).remembers
        self._functions = launch.functions
        self._accounts = accounts
        self._in_process = in_process
        self._snapshot, self._snapshot_bytes = snapshot, 0
        self._version = snapshot
        self._commits = self._updates = self._versions = 0
        self._fraction = 0.0
        self._alive: dict[str, float] = {}
        self._samples: deque[_Sample] = deque()
        self._asked_at = -math.inf

    def take(self, event: Event) -> None:
        """Take note of an engine's event.

        Raises:
            Enough: If the cap stops the run; it is raised once.
        """
        if event.event == "snapshot":
            self._snapshot = max(self._snapshot, event.version)
            self._snapshot_bytes = event.size_bytes
        elif event.event == "ended":
            self._alive.pop(event.function, None)
        elif event.event == "usage":
            self._alive[event.function] = time.monotonic()
        elif event.event == "commit":
            if not self._commits:
                self._samples.clear()  # the beginning costs more than the rounds after it
            self._versions += event.version - self._version if self._commits else 0
            self._version, self._fraction = event.version, event.fraction
            self._commits += 1
            self._updates += event.updates
        if event.event in ("commit", "usage") and self.reason is None and self.ask() is not None:
            raise Enough(self.reason)

    def ask(self) -> str | None:
        """Call the cap, and return why the run must stop, or None."""
        now = time.monotonic()
        if now - self._asked_at >= _PAUSE_S:
            self._asked_at = now
            self.reason = self._cap(self.if_stopped(now))
        return self.reason

    def if_stopped(self, now: float) -> Spent:
        """Estimate what the run will have spent if it is stopped now."""
        reading = self._accounts.reading()
        self._sample(_Sample(now, self._updates, reading))
        round_s, per_round = self._round()
        told_s = now - min(self._alive.values(), default=now)
        unheard_s = 0.0 if self._in_process else min(told_s, WINDOW_S) + (REACTION_S if self._alive else 0.0)
        rounds = 1.0 + (unheard_s / round_s if round_s else 0.0)
        ahead = portion_of(per_round, rounds) + MeterReading(
            self._winding_down() + self._ending(rounds),
            bytes_sent=self._snapshot_bytes,
            bytes_received=self._snapshot_bytes,
        )
        seconds = self._accounts.seconds + rounds * round_s + REPLAY_SHARE * round_s * self._unkept_rounds()
        lifetimes_s = tuple(
            each.seconds + (now - self._alive[each.function] + rounds * round_s if each.function in self._alive else 0)
            for each in self._accounts.functions()
        )
        earlier_s = math.fsum(each.seconds for each in self._accounts.earlier if each.launcher)
        return Spent(seconds, earlier_s + seconds, lifetimes_s, reading + ahead, self._commits)

    def _sample(self, sample: _Sample) -> None:
        samples, workers = self._samples, self._settings.workers
        samples.append(sample)
        while (
            len(samples) > 2 and sample.at - samples[1].at > WINDOW_S and self._updates - samples[1].updates >= workers
        ):
            samples.popleft()

    def _round(self) -> tuple[float, MeterReading]:
        """Return the seconds and requests of a round, as measured lately. Before there is a measurement, return the
        requests that a round should take, and 0 seconds."""
        workers = self._settings.workers
        first, last = self._samples[0], self._samples[-1]
        updates = last.updates - first.updates
        if updates < workers:
            script, units = self._exchanged()
            asked = count_requests(script, **units)
            return 0.0, MeterReading(asked + Counter(get_miss=workers))
        share = workers / updates
        return (last.at - first.at) * share, portion_of(last.reading - first.reading, share)

    def _exchanged(self) -> Exchanged:
        settings = self._settings
        schedule = SCHEDULES.make(settings.schedule)
        if isinstance(schedule, Groups):
            grouping = schedule.grouping(settings.workers, settings.seed)
            return grouped(grouping, settings.workers, self._functions, [0])
        return exchanged(settings.pattern, settings.workers, self._functions, settings.workers)

    def _unkept_rounds(self) -> float:
        """Return the number of rounds since the newest snapshot."""
        updates_per_version = self._updates / self._versions if self._versions else self._settings.workers
        return max(0, self._version - self._snapshot) * updates_per_version / self._settings.workers

    def _winding_down(self) -> Counter[str]:
        """Return the requests that it takes until all functions have left and a snapshot of the newest version
        exists."""
        functions, workers = self._functions, self._settings.workers
        script = LEAVE if self._alive else (*LEAVE, *START, *SUCCEED)
        if self._remembers:
            script += REMEMBER if self._alive else (*REMEMBER, *RECALL)
        unkept = max(0, self._version - self._snapshot) + 1
        return count_requests(script, function=functions, worker=workers) + Counter(
            create=functions + 3,  # usage, snapshot and its evaluation
            get=math.ceil(self._unkept_rounds() + 1) * workers + unkept + 3,
            get_miss=unkept + 8,
            list=4,
            head=1,
        )

    def _ending(self, rounds: float) -> Counter[str]:
        """Return the requests that the run's own end takes if it may be near: the whole log is read then."""
        settings = self._settings
        if settings.target is None and self._fraction + 2 * rounds / settings.steps < 1:
            return Counter()
        evaluations = 1 + self._version // settings.snapshot_every
        return Counter(
            get=self._version + evaluations + 5, get_miss=min(256, self._version + 8), create=4, list=4, head=4
        )


def capped(reason: str | None, version: int, accounts: Accounts) -> RunCapped:
    """Close the accounts and return the error to raise: why the run has stopped, and what it has spent."""
    spent, functions = accounts.close(), accounts.functions()
    seconds = math.fsum(each.seconds for each in functions)
    return RunCapped(
        f"{reason}. The run has stopped at version {version}, after {spent.total:,} requests and {seconds:,.1f} s of "
        f"{len(functions):,} functions; resume it with a higher cap to go on"
    )
