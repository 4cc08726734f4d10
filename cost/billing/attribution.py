"""The attribution of functions' seconds and requests to workers, commits and phases.

A second of a function is billed whether it works or waits, and a function may hold several workers, whose updates
overlap. Each second therefore goes, in equal shares, to the updates that something was done for (computing, encoding,
upload, download, apply). It counts as waiting only when all of them waited. The parts thus add up to the billed
seconds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from operator import itemgetter
from typing import Any

from lambdaml.log.reader import RunReader
from lambdaml.log.usage import Usage
from lambdaml.traces.attribution import trace_rows
from lambdaml.traces.spans import phase_spans

COST_PHASES = {
    "start-up": "from asking for a function until its first update is begun",
    "download": "reading the updates of a commit",
    "compute": "fetching the batch, forward, backward",
    "encode": "codec and buffers",
    "upload": "putting the update",
    "wait": "all updates of the function waited: for its core, or for others and their commits",
    "apply": "sums and optimizer steps",
    "other": "no update was under way: reading the log, writing snapshots and the end",
    "unreported": "of functions that were killed: their start, and what came after their last report",
}
"""The phases of a function's life, and what each of them is."""

SHARED = "run"
"""The name for everything that was used for no single worker or commit."""

_OWN_LAST = 2
"""The requests, beside those that release leases, that a function may have sent after its last report."""


@dataclass(slots=True)
class PhaseCost:
    """The use of a phase, a worker or a commit.

    Attributes:
        updates: The updates that took part.
        seconds: The seconds of functions.
        requests: The requests by kind, as a meter names them. Only `SHARED` has requests other than those for updates.
    """

    updates: int = 0
    seconds: float = 0.0
    requests: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    bytes_sent: int = 0
    bytes_received: int = 0

    def add(self, row: Mapping[str, Any]) -> None:
        """Count the requests of an update's row, which may not have reached its end."""
        self.updates += 1
        for kind, name in (("get", "gets"), ("get_miss", "polls"), ("create", "puts")):
            if row.get(name):
                self.requests[kind] += row[name]
        self.bytes_sent += row["bytes_sent"]
        self.bytes_received += row.get("bytes_received", 0)


@dataclass(slots=True)
class Attribution:
    """The shares by phase, by worker and by commit. Both those by worker and those by commit add up to the whole."""

    phases: dict[str, PhaseCost]
    workers: dict[int | str, PhaseCost]
    commits: dict[int | str, PhaseCost]


@dataclass(slots=True)
class _Reported:
    """The contents of one function's trace."""

    began: float = 0.0
    seconds: float = 0.0
    requests: int = 0
    updates: list[dict[str, Any]] = field(default_factory=list)


def attribute(run: RunReader, usage: list[Usage], rows: Sequence[Mapping[str, Any]] | None = None) -> Attribution:
    """Attribute what the functions of a run used. This needs one listing, and reads the trace and the log.

    Args:
        usage: The usage of its functions.
        rows: The rows of its trace, if they are known already.
    """
    decided = {(row["worker"], row["seq"]): row["commit"] for row in (trace_rows(run) if rows is None else rows)}
    reported = _reported(run)
    found = Attribution(
        {phase: PhaseCost() for phase in COST_PHASES},
        defaultdict(PhaseCost, {worker: PhaseCost() for worker in range(run.settings.workers)}),
        defaultdict(PhaseCost, {commit: PhaseCost() for commit in sorted(set(decided.values()))}),
    )
    for each in usage:
        if not each.launcher:
            _attribute(each, reported.get(each.function, _Reported()), decided, found)
    for shares in (found.workers, found.commits):
        _rest(shares, usage)
    return found


def _reported(run: RunReader) -> dict[str, _Reported]:
    found: defaultdict[str, _Reported] = defaultdict(_Reported)
    for function, _, row in run.trace_rows("function", "meter", "update"):
        own = found[function]
        if row["kind"] == "function":
            own.began = row["now_s"]
        elif row["kind"] == "meter":
            own.seconds = row["seconds"]
            own.requests = sum(row["requests"].values()) + sum(row["errors"].values())
        else:
            own.updates.append(row)
    return found


def _attribute(usage: Usage, own: _Reported, decided: Mapping[tuple[int, int], int], found: Attribution) -> None:
    """Add one function's seconds and requests."""
    phases, rows = found.phases, own.updates
    for row in rows:
        commit = decided.get((row["worker"], row["seq"]), SHARED)
        found.workers[row["worker"]].add(row)
        found.commits[commit].add(row)
    end = own.began + own.seconds
    first = min((row["started_s"] for row in rows), default=end)
    outside = max(0.0, usage.seconds - own.seconds)
    orderly = usage.reading.total - own.requests <= _OWN_LAST + len({row["worker"] for row in rows})
    phases["start-up" if orderly else "unreported"].seconds += outside
    phases["start-up"].seconds += max(0.0, first - own.began)
    covered = 0.0
    for seconds, phase, row in _slices(rows, end):
        covered += seconds
        phases[phase].seconds += seconds
        found.workers[row["worker"]].seconds += seconds
        found.commits[decided.get((row["worker"], row["seq"]), SHARED)].seconds += seconds
    phases["other"].seconds += max(0.0, end - first - covered)


def _slices(rows: list[dict[str, Any]], end: float) -> Iterator[tuple[float, str, dict[str, Any]]]:
    """Yield seconds, phase and update: each moment with an update under way, shared among those it was used for."""
    spans = sorted(((span, row) for row in rows for span in phase_spans(row, end)), key=itemgetter(0))
    if all(later.begin_s >= earlier.end_s for (earlier, _), (later, _) in pairwise(spans)):  # one update at a time
        yield from ((span.end_s - span.begin_s, span.phase, row) for span, row in spans)
        return
    begins: defaultdict[float, list[int]] = defaultdict(list)
    ends: defaultdict[float, list[int]] = defaultdict(list)
    for number, (span, _) in enumerate(spans):
        begins[span.begin_s].append(number)
        ends[span.end_s].append(number)
    active: set[int] = set()
    for now, then in pairwise(sorted({*begins, *ends})):
        active = (active - set(ends[now])) | set(begins[now])
        working = [number for number in active if spans[number][0].phase != "wait"] or list(active)
        share_s = (then - now) / len(working) if working else 0.0
        for number in sorted(working) if share_s else ():  # the least of all floats has no half
            yield share_s, spans[number][0].phase, spans[number][1]


def _rest(shares: dict[int | str, PhaseCost], usage: list[Usage]) -> None:
    """Put what was used for none of them under `SHARED`, so that they add up to what the meters counted."""
    known = list(shares.values())
    rest = shares[SHARED]
    for each in usage:
        for kind, count in each.reading.requests.items():
            rest.requests[kind] += count
        rest.bytes_sent += each.reading.bytes_sent
        rest.bytes_received += each.reading.bytes_received
        rest.seconds += 0.0 if each.launcher else each.seconds
    for share in known:
        if share is rest:
            continue
        for kind, count in share.requests.items():
            rest.requests[kind] -= count
        rest.bytes_sent -= share.bytes_sent
        rest.bytes_received -= share.bytes_received
        rest.seconds -= share.seconds
