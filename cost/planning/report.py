"""The report of a planned run: what the plan expected beside what the run took."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from lambdaml.cost.billing.bill import RunBill, bill
from lambdaml.cost.billing.prices import PriceBook
from lambdaml.cost.profiling.profile import MEASURED
from lambdaml.errors import UserError
from lambdaml.log.reader import RunReader
from lambdaml.traces.attribution import trace_rows


@dataclass(frozen=True, slots=True)
class Comparison:
    """One quantity, as planned and as it was in the run."""

    what: str
    unit: str
    planned: float
    actual: float

    @property
    def error(self) -> float | None:
        """The plan's error relative to the actual value, or None if that is 0."""
        return self.planned / self.actual - 1 if self.actual else None


@dataclass(frozen=True, slots=True)
class RunReport:
    """The comparison of a plan and its run.

    Attributes:
        run: The URL of the run.
        reason: The plan's reason for choosing this way.
        bill: The bill of the run, for the platform and store that were planned for.
    """

    run: str
    reason: str
    comparisons: tuple[Comparison, ...]
    bill: RunBill

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        rows = [{**asdict(row), "error": row.error} for row in self.comparisons]
        return {"run": self.run, "reason": self.reason, "comparisons": rows, "bill": self.bill.to_dict()}


def report(run: RunReader | str, prices: PriceBook | None = None) -> RunReport:
    """Compare a run that has ended with its plan.

    Args:
        run: The run, or its URL.
        prices: The price book. Defaults to the packaged prices with your own on top of them.

    Raises:
        UserError: If the run was not planned.
        BadObject: If an object of the run is damaged.
    """
    run = RunReader(run) if isinstance(run, str) else run
    plan = run.settings.planned
    if plan is None:
        raise UserError("this run was not planned: start it with 'lambdaml train --schedule auto'")
    channel = None if plan["channel"] == MEASURED else plan["channel"].partition(":")[0]
    billed = bill(run, platform=plan["platform"], channel=channel, prices=prices)
    summary = run.summary()
    used = billed.used
    rows = (
        Comparison("time", "s", plan["seconds"], used.wall_s),
        Comparison("cost", "USD", plan["usd"], billed.bill.usd),
        Comparison("optimizer steps", "", plan["steps"], summary.stop_version or summary.version),
        Comparison("time of a step", "s", plan["step_s"], _step_s(run)),
        Comparison("updates of a step", "", plan["group"], summary.fates["applied"] / max(1, summary.version)),
        Comparison("mean staleness", "steps", plan["staleness"], summary.staleness.mean),
        Comparison("requests", "", plan["requests"], sum(used.requests.values())),
        Comparison("bytes sent", "", plan["bytes_sent"], used.bytes_sent),
        Comparison("bytes received", "", plan["bytes_received"], used.bytes_received),
        Comparison("function-seconds", "s", plan["function_seconds"], billed.function_seconds),
        Comparison("invocations", "", plan["invocations"], len(used.lifetimes_s)),
    )
    return RunReport(run.url, plan["reason"], rows, billed)


def _step_s(run: RunReader) -> float:
    """Return the mean seconds between optimizer steps once the run was under way, or 0 if they are not known."""
    moments = {row["version"]: row["committed_s"] for row in trace_rows(run) if row["fate"] == "applied"}
    known = {version: moment for version, moment in moments.items() if moment is not None}
    if len(known) < 2:
        return 0.0
    first, last = min(known), max(known)
    return float((known[last] - known[first]) / (last - first))
