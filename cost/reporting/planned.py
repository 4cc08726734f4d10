"""What a plan expected of a run beside what the run took."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lambdaml.cost.billing.bill import RunBill
from lambdaml.log.summary import Summary


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

    @property
    def than_planned(self) -> str:
        """Which side is larger, in words, such as `1.20x slower` or `1.30x less`."""
        if self.planned == self.actual:
            return "the same"
        if not self.planned or not self.actual:
            return "more" if self.actual > self.planned else "less"
        more, less = ("slower", "faster") if self.what in ("time", "time of a step") else ("more", "less")
        ratio = self.actual / self.planned
        shown = f"{max(ratio, 1 / ratio):.2f}"
        return "about the same" if shown == "1.00" else f"{shown}x {more if ratio > 1 else less}"


def compare(
    plan: Mapping[str, Any], summary: Summary, billed: RunBill, rows: Sequence[Mapping[str, Any]]
) -> Iterator[Comparison]:
    """Yield each quantity of a plan, as run.json has it, beside what the run took.

    Args:
        plan: The expectations, as `Settings.planned` has them.
        summary: The sums over the run's log.
        billed: The bill of the run, for the platform and store that were planned for.
        rows: The rows of its trace.
    """
    used = billed.used
    yield Comparison("time", "s", plan["seconds"], used.wall_s)
    yield Comparison("cost", "USD", plan["usd"], billed.bill.usd)
    yield Comparison("optimizer steps", "", plan["steps"], summary.stop_version or summary.version)
    yield Comparison("time of a step", "s", plan["step_s"], _step_s(rows))
    yield Comparison("updates of a step", "", plan["group"], summary.fates["applied"] / max(1, summary.version))
    yield Comparison("mean staleness", "steps", plan["staleness"], summary.staleness.mean)
    yield Comparison("requests", "", plan["requests"], sum(used.requests.values()))
    yield Comparison("bytes sent", "", plan["bytes_sent"], used.bytes_sent)
    yield Comparison("bytes received", "", plan["bytes_received"], used.bytes_received)
    yield Comparison("function-seconds", "s", plan["function_seconds"], billed.function_seconds)
    yield Comparison("invocations", "", plan["invocations"], len(used.lifetimes_s))


def _step_s(rows: Sequence[Mapping[str, Any]]) -> float:
    """Return the mean seconds between optimizer steps once the run was under way, or 0 if they are not known."""
    moments = {row["version"]: row["committed_s"] for row in rows if row["fate"] == "applied"}
    known = {version: moment for version, moment in moments.items() if moment is not None}
    if len(known) < 2:
        return 0.0
    first, last = min(known), max(known)
    return float((known[last] - known[first]) / (last - first))
