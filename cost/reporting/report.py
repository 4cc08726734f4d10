"""The report of a run: what came out, how it learnt, how stale updates were and why, where time, requests and dollars
went, and what a plan had expected.

    found = lambdaml.report("runs/digits-1")
    found.verdict, found.curve, found.functions, found.bill, found.comparisons

`lambdaml.cost.reporting.page` makes a page of one or several reports.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from lambdaml.cost.billing.bill import RunBill, bill
from lambdaml.cost.billing.prices import PriceBook
from lambdaml.cost.billing.prices import prices as own_prices
from lambdaml.cost.profiling.profile import MEASURED
from lambdaml.cost.reporting.planned import Comparison, compare
from lambdaml.cost.reporting.reproduce import again_command
from lambdaml.cost.reporting.verdict import verdict
from lambdaml.cost.reporting.why import Diagnosis, diagnose
from lambdaml.errors import UserError
from lambdaml.log.reader import RunReader
from lambdaml.log.status import Status, status
from lambdaml.log.summary import Summary
from lambdaml.settings import Settings
from lambdaml.traces.attribution import Explained, explain
from lambdaml.traces.lives import FunctionLife, lives
from lambdaml.traces.recording import Recording


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """A version of the model, and how it was come by.

    Attributes:
        version: The version, in optimizer steps.
        samples: The number of samples in the updates up to it.
        seconds: The seconds from the run's beginning until it was committed; None if clocks cannot be compared.
        usd: The US dollars that were spent by then. What was used for no single commit is spread evenly over time.
        loss: The mean loss of its updates over their batches, before the step; None for a version that no update made.
    """

    version: int
    samples: int
    seconds: float | None
    usd: float
    loss: float | None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The metrics of a version, by name."""

    point: CurvePoint
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class RunReport:
    """The report of a run.

    Attributes:
        run: The URL of the run.
        settings: The settings of the run.
        state: The state of the run, such as `finished` or `stopped`; see `lambdaml.log.status`.
        verdict: Three sentences: what came out, what it took, and what stood in the way.
        summary: The sums over the run's log.
        curve: One point for each version.
        evaluations: The evaluations, in the order of versions.
        staleness: The staleness of updates, and where it comes from.
        functions: The functions, in the order in which they began.
        bill: The bill of the run.
        reason: The plan's reason for choosing this way; "" for a run that was not planned.
        comparisons: The plan's expectations beside what the run took; empty for a run that was not planned.
        reproduce: The command that trains the same again.
        diagnosis: The things that took time and dollars, and what would have helped; None if the run cannot be simulated.
        undiagnosed: The reason why it cannot, or "".
    """

    run: str
    settings: Settings
    state: Status
    verdict: tuple[str, ...]
    summary: Summary
    curve: tuple[CurvePoint, ...]
    evaluations: tuple[Evaluation, ...]
    staleness: Explained
    functions: tuple[FunctionLife, ...]
    bill: RunBill
    reason: str
    comparisons: tuple[Comparison, ...]
    reproduce: str
    diagnosis: Diagnosis | None
    undiagnosed: str

    @property
    def name(self) -> str:
        """The last part of the run's URL, by which people tell runs apart."""
        return os.path.basename(self.run.partition("?")[0].rstrip("/")) or self.run

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "run": self.run,
            "state": self.state.state,
            "verdict": list(self.verdict),
            "summary": asdict(self.summary),
            "evaluations": [{"version": one.point.version, "metrics": dict(one.metrics)} for one in self.evaluations],
            "curve": [asdict(point) for point in self.curve],
            "staleness": asdict(self.staleness),
            "functions": [life.to_dict() for life in self.functions],
            "reason": self.reason,
            "comparisons": [{**asdict(row), "error": row.error} for row in self.comparisons],
            "bill": self.bill.to_dict(),
            "settings": self.settings.model_dump(),
            "reproduce": self.reproduce,
            "why": self.diagnosis and self.diagnosis.to_dict(),
        }


def report(
    run: RunReader | str,
    prices: PriceBook | None = None,
    *,
    platform: str | None = None,
    channel: str | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> RunReport:
    """Return the report of a run, of one that still goes on as far as it has got.

    Args:
        run: The run, or its URL.
        prices: The price book. Defaults to the packaged prices with your own on top of them.
        platform: The platform as which functions are billed. Defaults to that of the plan, or else to the one on which
            they ran.
        channel: The store as which the run's store is billed. Defaults in the same way.
        progress: A callable that takes the share that is done, now and then.

    Raises:
        SettingsError: If there is no such platform or channel.
        BadObject: If an object of the run is damaged.
    """
    with _uncollected():
        return _report(run if isinstance(run, Recording) else Recording(run), prices, platform, channel, progress)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep the garbage collector from walking through millions of rows, again and again, that are all still needed."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _report(
    found: Recording,
    prices: PriceBook | None,
    platform: str | None,
    channel: str | None,
    progress: Callable[[float], None],
) -> RunReport:
    settings, book = found.settings, prices or own_prices()
    if settings.planned is not None:
        expected = settings.planned["channel"]
        platform = platform or settings.planned["platform"]
        channel = channel or (None if expected == MEASURED else expected.partition(":")[0])
    progress(0.0)
    billed = bill(found, platform=platform, channel=channel, prices=book, rows=found.rows)
    progress(0.5)
    summary = found.summary()
    curve = tuple(_curve(found.rows, billed))
    evaluations = tuple(_evaluations(found.metrics(), curve))
    now, functions, stale = status(found), tuple(lives(found)), explain(found.rows)
    diagnosis, undiagnosed = _diagnosed(found, billed, book, lambda share: progress(0.5 + 0.5 * share))
    comparisons = () if settings.planned is None else tuple(compare(settings.planned, summary, billed, found.rows))
    return RunReport(
        run=found.url,
        settings=settings,
        state=now,
        verdict=verdict(settings, now, summary, evaluations, stale, functions, billed),
        summary=summary,
        curve=curve,
        evaluations=evaluations,
        staleness=stale,
        functions=functions,
        bill=billed,
        reason="" if settings.planned is None else settings.planned["reason"],
        comparisons=comparisons,
        reproduce=again_command(settings, found.url),
        diagnosis=diagnosis,
        undiagnosed=undiagnosed,
    )


def _diagnosed(
    found: Recording, billed: RunBill, book: PriceBook, progress: Callable[[float], None]
) -> tuple[Diagnosis | None, str]:
    try:
        return diagnose(found, billed, book, progress), ""
    except UserError as error:
        return None, str(error)


def _curve(rows: Sequence[Mapping[str, Any]], billed: RunBill) -> Iterator[CurvePoint]:
    """Yield a point for each version that updates made, and the dollars that it had cost by then."""
    by_commit = {item.name: item.usd for item in billed.commits}
    shared = float(by_commit.get("run", 0.0))
    applied = [row for row in rows if row["version"] is not None]
    ends = [row["committed_s"] for row in applied if row["committed_s"] is not None]
    whole_s = max(ends, default=0.0)
    samples, own, commit = 0, 0.0, -1
    for version, step in groupby(applied, lambda row: row["version"]):
        updates = list(step)
        samples += sum(row["samples"] or 0 for row in updates)
        for number in range(commit + 1, updates[-1]["commit"] + 1):
            own += by_commit.get(number, 0.0)
        commit = updates[-1]["commit"]
        losses = [row["loss"] for row in updates if row["loss"] is not None]
        seconds = updates[-1]["committed_s"]
        spread = shared * min(1.0, (seconds or 0.0) / whole_s) if whole_s else 0.0
        loss = sum(losses) / len(losses) if losses else None
        yield CurvePoint(version, samples, seconds, own + spread, loss)


def _evaluations(metrics: Mapping[int, Mapping[str, float]], curve: Sequence[CurvePoint]) -> Iterator[Evaluation]:
    """Yield each evaluation with the point of the curve at its version."""
    begin = CurvePoint(0, 0, 0.0, 0.0, None)
    points = {point.version: point for point in curve}
    for version in sorted(metrics):
        point = points.get(version, begin if version == 0 else CurvePoint(version, 0, None, 0.0, None))
        yield Evaluation(point, metrics[version])
