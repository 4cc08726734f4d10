"""Afterwards: what a plan expected of a run beside what it took."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from lambdaml.cost.billing.bill import RunBill, bill_run
from lambdaml.cost.billing.prices import PriceBook
from lambdaml.cost.profiling.profile import MEASURED
from lambdaml.errors import UserError
from lambdaml.log.run import Run


@dataclass(frozen=True, slots=True)
class Comparison:
    """One quantity. `error` is the plan's, relative to what it was; None where that was nothing."""

    what: str
    unit: str
    planned: float
    actual: float

    @property
    def error(self) -> float | None:
        return self.planned / self.actual - 1 if self.actual else None


@dataclass(frozen=True, slots=True)
class RunReport:
    """Planned against actual.

    Attributes:
        reason: why this was planned.
        bill: of what it took, as on the platform and store that were planned for.
    """

    run: str
    reason: str
    comparisons: tuple[Comparison, ...]
    bill: RunBill

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        rows = [{**asdict(row), "error": row.error} for row in self.comparisons]
        return {"run": self.run, "reason": self.reason, "comparisons": rows, "bill": self.bill.to_dict()}


def plan_against_actual(run: Run, book: PriceBook | None = None) -> RunReport:
    """Compare a run that has ended with its plan.

    Raises:
        UserError: it was not planned.
        BadObject: an object of the run is damaged.
    """
    plan = run.settings.planned
    if plan is None:
        raise UserError("this run was not planned: start it with 'lambdaml train --schedule auto'")
    channel = None if plan["channel"] == MEASURED else plan["channel"].partition(":")[0]
    bill = bill_run(run, platform=plan["platform"], channel=channel, book=book)
    summary = run.summary()
    used = bill.used
    rows = (
        Comparison("time", "s", plan["seconds"], used.wall_s),
        Comparison("cost", "USD", plan["usd"], bill.bill.usd),
        Comparison("optimizer steps", "", plan["steps"], summary.stop_version or summary.version),
        Comparison("time of a step", "s", plan["step_s"], _step_s(run)),
        Comparison("updates of a step", "", plan["group"], summary.fates["applied"] / max(1, summary.version)),
        Comparison("mean staleness", "steps", plan["staleness"], summary.staleness.mean),
        Comparison("requests", "", plan["requests"], sum(used.requests.values())),
        Comparison("bytes sent", "", plan["bytes_sent"], used.bytes_sent),
        Comparison("bytes received", "", plan["bytes_received"], used.bytes_received),
        Comparison("function-seconds", "s", plan["function_seconds"], bill.function_seconds),
        Comparison("invocations", "", plan["invocations"], len(used.lifetimes_s)),
    )
    return RunReport(run.url, plan["reason"], rows, bill)


def _step_s(run: Run) -> float:
    """Mean seconds between optimizer steps, once the run was under way; 0 where that cannot be told."""
    moments = {row["version"]: row["committed_s"] for row in run.trace() if row["fate"] == "applied"}
    known = {version: moment for version, moment in moments.items() if moment is not None}
    if len(known) < 2:
        return 0.0
    first, last = min(known), max(known)
    return float((known[last] - known[first]) / (last - first))
