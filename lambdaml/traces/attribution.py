"""Attribution shows where staleness comes from: each step between an update's base and its own step is attributed to
the phase of the update's life in which it was committed.

    base committed ... started ... computed, encoded | upload | found, waited for ... committed
    |---- storage ----|-------- compute -------------|-storage-|--------- wait -------------|

* storage: before the worker could start (its function was still fetching log and updates), or during the upload;
* compute: while the gradient waited for the compute thread, was computed, encoded and packed;
* wait: from then on until its own step. `tau_delivery` is the part of it before the log's writer had read the update.

Each step falls into exactly one phase, so tau = tau_storage + tau_compute + tau_wait. A step's time is on the clock of
the function that wrote the log, and the phases are on the clock of the function that published the update.
`lambdaml.traces.clocks` bounds the difference; a step is uncertain if a phase boundary lies within that bound. The
order of the log is certain: a step of the update's own commit, or after the writer had read the update, belongs to
wait.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from statistics import fmean
from typing import Any

import numpy as np

from lambdaml.errors import UserError
from lambdaml.log.reader import RunReader
from lambdaml.log.records import Commit, Entry
from lambdaml.log.summary import Staleness
from lambdaml.schedules import SCHEDULES
from lambdaml.traces.clocks import Clocks, Offset
from lambdaml.traces.effective import effective_staleness

_Row = dict[str, Any]

PHASES = ("storage", "compute", "wait")

_OF_THE_ENTRY = ("worker", "seq", "base", "fate", "reason", "staleness", "weight", "samples", "loss", "generation")
_MOMENTS = ("started_s", "published_s", "applied_s")


@dataclass(frozen=True, slots=True)
class Split:
    """Holds the mean staleness by the phase of the update's life in which the intervening steps were committed.

    The three numbers are in steps, and add up to the mean staleness.

    Attributes:
        storage: The steps committed before the worker could start, or during the upload.
        compute: The steps committed while the gradient waited for the compute thread, was computed, encoded and packed.
        wait: The steps committed from the end of the upload until the update's own step.
    """

    storage: float
    compute: float
    wait: float

    @staticmethod
    def of(rows: Iterable[Mapping[str, Any]]) -> Split | None:
        """Split the staleness of those of a trace's rows that are attributed; return None if none is."""
        known = [row for row in rows if row.get("tau_wait") is not None]
        return Split(*(fmean(row[f"tau_{phase}"] for row in known) for phase in PHASES)) if known else None


@dataclass(frozen=True, slots=True)
class PhaseShare:
    """Sums up a part of a trace's applied updates.

    Attributes:
        first, last: The first and the last version of the part, or its worker.
        updates: The number of updates in the part.
        staleness: The distribution of their staleness.
        age_s: The mean time from the commit of their bases to their own commit; None if it is unknown.
        split: The mean staleness by phase of the updates that are attributed; None if none is.
    """

    first: int
    last: int
    updates: int
    staleness: Staleness
    age_s: float | None
    split: Split | None


@dataclass(frozen=True, slots=True)
class Explained:
    """Sums up the staleness of a trace.

    Attributes:
        applied: The number of applied updates.
        staleness: The distribution of their staleness.
        effective: The effective staleness; see `lambdaml.traces.effective`.
        counts: The number of applied updates by staleness.
        ages_s: The `mean`, `p50`, `p95` and `max` of the seconds from base to step; None if they are unknown.
        attributed: The number of applied updates whose steps are attributed to phases; for the others, measurements
            were lost.
        split: The mean staleness of the attributed updates by phase, in steps.
        store: The share of their steps that were committed while the store moved something: before the function had the
            newer state, during the upload, and until the log's writer had read the update. A store without latency
            would have removed this share if the steps had come at the same pace. None if it is unknown.
        uncertain: The share of their steps that may belong to another phase, because clocks may differ by `clock_s`.
        clock_s: The greatest difference that clocks may have, in seconds.
        workers: One part for each worker.
        trend: At most `TREND` parts, in the order of versions.
    """

    applied: int
    staleness: Staleness
    effective: float
    counts: dict[int, int]
    ages_s: dict[str, float] | None
    attributed: int
    split: Split | None
    store: float | None
    uncertain: float | None
    clock_s: float | None
    workers: tuple[PhaseShare, ...]
    trend: tuple[PhaseShare, ...]


TREND = 10


def explain(rows: Iterable[Mapping[str, Any]]) -> Explained:
    """Sum up where the staleness of a trace comes from. `rows` are `Trace.rows`, or those that `Run.trace` returns."""
    applied = [row for row in rows if row["fate"] == "applied"]
    known = [row for row in applied if row.get("tau_wait") is not None]
    steps = sum(row["staleness"] for row in known)
    ages = sorted(row["age_s"] for row in applied if row.get("age_s") is not None)
    moved = [row["tau_storage"] + row["tau_delivery"] for row in known if row.get("tau_delivery") is not None]
    whole = len(moved) == len(known) and steps > 0
    workers = sorted({row["worker"] for row in applied})
    size = -(-len(applied) // TREND) or 1
    pieces = [applied[start : start + size] for start in range(0, len(applied), size)]
    return Explained(
        applied=len(applied),
        staleness=_distribution(applied),
        effective=effective_staleness(
            [[row["staleness"] for row in rows] for _, rows in groupby(applied, itemgetter("version"))]
        ),
        counts=dict(sorted(Counter(row["staleness"] for row in applied).items())),
        ages_s={"mean": fmean(ages), **_percentiles(ages)} if ages else None,
        attributed=len(known),
        split=Split.of(known),
        store=sum(moved) / steps if whole else None,
        uncertain=sum(row["tau_uncertain"] for row in known) / steps if steps else None,
        clock_s=max((row["clock_s"] for row in known if row.get("clock_s") is not None), default=None),
        workers=tuple(_part(worker, worker, [row for row in applied if row["worker"] == worker]) for worker in workers),
        trend=tuple(_part(piece[0]["version"], piece[-1]["version"], piece) for piece in pieces),
    )


def _part(first: int, last: int, rows: Sequence[Mapping[str, Any]]) -> PhaseShare:
    ages = [row["age_s"] for row in rows if row.get("age_s") is not None]
    return PhaseShare(first, last, len(rows), _distribution(rows), fmean(ages) if ages else None, Split.of(rows))


def _distribution(rows: Iterable[Mapping[str, Any]]) -> Staleness:
    return Staleness.of([row["staleness"] for row in rows])


def _percentiles(ordered: Sequence[float]) -> dict[str, float]:
    p50, p95 = (float(age) for age in np.quantile(ordered, (0.5, 0.95), method="inverted_cdf"))
    return {"p50": p50, "p95": p95, "max": ordered[-1]}


@dataclass(slots=True)
class Measured:
    """Holds what functions wrote into the trace of a run.

    Attributes:
        updates: The measurements of each update, by worker and number. Moments are on the function's own clock.
        hellos: When each function began to write its first part, and the store's date of that part.
        answered: When each function had written that part.
        arrived: When a function had read each of a commit's updates, by function and commit; None for updates that it
            never saw.
    """

    updates: dict[tuple[int, int], _Row] = field(default_factory=dict)
    hellos: dict[str, tuple[float, float]] = field(default_factory=dict)
    answered: dict[str, float] = field(default_factory=dict)
    arrived: dict[tuple[str, int], list[float | None]] = field(default_factory=dict)

    def add(self, row: _Row, function: str, date_s: float) -> None:
        """Add a row of a part that the store dated `date_s`."""
        kind = row["kind"]
        if kind == "update":
            self.updates[row["worker"], row["seq"]] = row
        elif kind == "function" and "now_s" in row:
            self.hellos[function] = row["now_s"], date_s
        elif kind == "clock":
            self.answered[function] = row["after_s"]
        elif kind == "arrivals":
            self.arrived[function, row["commit"]] = row["at"]


def trace_rows(run: RunReader) -> list[_Row]:
    """Return one row for each update of a run that has a fate, in the order of the log, with the columns of
    `lambdaml.traces`.

    Each row joins what the log says with what the function that published the update measured, and says where the
    update's staleness comes from. If a function was killed, at most its last 15 seconds of measurements are lost; for
    these updates the phases are missing.
    """
    measured = Measured()
    for function, info, row in run.trace_rows("update", "function", "clock", "arrivals"):
        measured.add(row, function, info.modified)
    return join(list(run.log()), measured, logged=_logged(run.settings.schedule))


def _logged(schedule: str) -> bool:
    """Return whether functions follow the log; False also if the schedule is not known here."""
    try:
        return not SCHEDULES.make(schedule).deterministic
    except UserError:
        return False


def join(commits: Sequence[Commit], measured: Measured, logged: bool) -> list[_Row]:
    """Return one row for each update that has a fate, in the order of the log: what the log says, what its function
    measured, and where its staleness comes from. The columns are those of `lambdaml.traces`; unknown values are left
    out.

    Args:
        commits: The whole log.
        measured: The measurements of functions.
        logged: Whether functions follow the log. With a deterministic schedule they reach a commit before it is logged.
    """
    table = _Table(commits, measured, logged)
    return [row for commit in commits for row in table.rows(commit)]


class _Table:
    def __init__(self, commits: Sequence[Commit], measured: Measured, logged: bool) -> None:
        self._measured = measured
        self._clocks = _clocks(commits, measured, logged)
        self._root = commits[0].function if commits else ""
        self._began = measured.hellos.get(self._root, (None, None))[0]
        made = [commit for commit in commits for _ in commit.steps]
        self._writers = sorted({commit.function for commit in commits})
        self._moments = [commit.time_s for commit in made]
        self._writer = [self._writers.index(commit.function) for commit in made]
        self._offsets: dict[tuple[str, str], Offset | None] = {}
        self._known_shifts: dict[str, list[Offset | None]] = {}

    def rows(self, commit: Commit) -> Iterator[_Row]:
        committed_s = self._placed(commit.function, commit.time_s)
        arrivals = self._measured.arrived.get((commit.function, commit.commit), [])
        for number, (entry, version) in enumerate(_decided(commit)):
            row: _Row = {name: getattr(entry, name) for name in _OF_THE_ENTRY}
            row |= {"commit": commit.commit, "version": version, "committed_s": committed_s}
            if (age_s := self._age_s(commit, entry.base)) is not None:
                row["age_s"] = age_s
            arrived = arrivals[number] if number < len(arrivals) else None
            if arrived is not None:
                row["arrived_s"] = self._placed(commit.function, arrived)
            phases = dict(self._measured.updates.get((entry.worker, entry.seq), {}))
            if version is not None:
                row |= self._attributed(commit, entry.base, version, phases, arrived)
            for name in _MOMENTS:
                if name in phases:
                    row[name] = self._placed(phases["function"], phases.pop(name))
            yield row | {name: value for name, value in phases.items() if name not in ("kind", *row)}

    def _placed(self, function: str, moment_s: float) -> float | None:
        """Convert a moment to seconds since the run's first writer began; return None if clocks cannot be compared."""
        offset = self._offset(function, self._root)
        if self._began is None or offset is None:
            return None
        return round(moment_s + offset.seconds - self._began, 6)

    def _offset(self, function: str, to: str) -> Offset | None:
        if (function, to) not in self._offsets:
            self._offsets[function, to] = self._clocks.offset(function, to)
        return self._offsets[function, to]

    def _age_s(self, commit: Commit, base: int) -> float | None:
        if not 0 <= base <= len(self._moments):
            return None
        writer = self._writers[self._writer[base - 1]] if base else self._root
        moment = self._moments[base - 1] if base else self._began
        offset = self._offset(writer, commit.function)
        if offset is None or moment is None:
            return None
        return round(float(commit.time_s - moment - offset.seconds), 6)

    def _attributed(self, commit: Commit, base: int, version: int, phases: _Row, arrived: float | None) -> _Row:
        """Count the steps base+1 ... version-1 by phase; return nothing if the measurements for it were lost."""
        if base == version - 1:
            return {"tau_storage": 0, "tau_compute": 0, "tau_wait": 0, "tau_delivery": 0, "tau_uncertain": 0}
        if not phases:
            return {}
        started, published = phases["started_s"], phases["published_s"]
        sent, own = published - phases["upload_s"], self._writers.index(commit.function)
        storage = wait = delivery = uncertain = 0
        apart_s, shifts = 0.0, self._shifts(phases["function"])
        for step in range(base, version - 1):  # a version's index is version - 1
            writer, moment = self._writer[step], self._moments[step]
            shift = shifts[writer]
            if shift is None:
                return {}
            apart_s = max(apart_s, shift.uncertainty_s)
            # Either the step is in the update's own commit, or the log's writer had read the update before it.
            if step >= commit.version or (arrived is not None and writer == own and moment >= arrived):
                wait += 1
                continue
            moment += shift.seconds
            if moment > published:
                wait += 1
                delivery += 1
            elif moment <= started or moment > sent:
                storage += 1
            near_s = shift.uncertainty_s
            if abs(moment - started) < near_s or abs(moment - sent) < near_s or abs(moment - published) < near_s:
                uncertain += 1
        compute = version - 1 - base - storage - wait
        counts = {"tau_storage": storage, "tau_compute": compute, "tau_wait": wait, "tau_uncertain": uncertain}
        found = counts if arrived is None else {**counts, "tau_delivery": delivery}
        return {**found, "clock_s": round(apart_s, 6)}

    def _shifts(self, function: str) -> list[Offset | None]:
        """Return what leads from the clock of each writer of the log to that of a function; None where nothing is known."""
        if function not in self._known_shifts:
            offsets = [self._clocks.offset(writer, function) for writer in self._writers]
            known = [each if each is not None and math.isfinite(each.uncertainty_s) else None for each in offsets]
            self._known_shifts[function] = known
        return self._known_shifts[function]


def _decided(commit: Commit) -> Iterator[tuple[Entry, int | None]]:
    """Yield the entries of a commit in order, each with the version that its step makes."""
    for version, step in enumerate(commit.steps, commit.version + 1):
        yield from ((entry, version) for entry in step)
    yield from ((entry, None) for entry in commit.refused)


def _clocks(commits: Sequence[Commit], measured: Measured, logged: bool) -> Clocks:
    clocks = Clocks(measured.hellos)
    for name, (before_s, date_s) in measured.hellos.items():
        clocks.dated(name, before_s, measured.answered.get(name), date_s)
    made = [commit for commit in commits for _ in commit.steps]
    for commit in commits:
        arrivals = measured.arrived.get((commit.function, commit.commit), [])
        for number, entry in enumerate(commit.entries):
            row = measured.updates.get((entry.worker, entry.seq))
            if row is None:
                continue
            arrived = arrivals[number] if number < len(arrivals) else None
            sent_s = row["published_s"] - row["upload_s"]
            clocks.order(row["function"], sent_s, commit.function, commit.time_s if arrived is None else arrived)
            if logged:
                if "applied_s" in row:
                    clocks.order(commit.function, commit.time_s, row["function"], row["applied_s"])
                if 0 < entry.base <= len(made):
                    base, begun_s = made[entry.base - 1], sent_s - row["encode_s"] - row["compute_s"]
                    clocks.order(base.function, base.time_s, row["function"], begun_s)
    return clocks
