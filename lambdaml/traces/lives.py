"""The lives of a run's functions on one clock: when each was asked for, began, did what, and ended or died."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lambdaml.log import keys
from lambdaml.traces.recording import Recording
from lambdaml.traces.spans import Span, function_spans


@dataclass(frozen=True, slots=True)
class FunctionLife:
    """The life of one function, in seconds since the run's first writer began.

    Attributes:
        function: The name of the function.
        asked_s: The moment when it was asked for; what lies between this and `began_s` is its cold start.
        began_s: The moment when it began, which is when it wrote its first trace part.
        ended_s: The moment of its last sign of life.
        died: Whether who started it saw it end without a report, because it was killed or its machine failed.
        updates: The number of its updates that have a fate.
        spans: The things that it did, in order.
    """

    function: str
    asked_s: float
    began_s: float
    ended_s: float
    died: bool
    updates: int
    spans: tuple[Span, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, with the seconds of each phase in place of the spans."""
        phases: dict[str, float] = defaultdict(float)
        for span in self.spans:
            phases[span.phase] += span.end_s - span.begin_s
        moments = {"asked_s": self.asked_s, "began_s": self.began_s, "ended_s": self.ended_s}
        return {"function": self.function, **moments, "died": self.died, "updates": self.updates, "phases_s": phases}


def lives(run: Recording) -> Iterator[FunctionLife]:
    """Yield the functions of a run in the order in which they began. Those whose clock cannot be compared with the
    others', or that measured nothing, are left out."""
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in run.rows:
        if row.get("published_s") is not None and row.get("started_s") is not None:
            rows[row["function"]].append(row)
    reported = {function: row["seconds"] for function, _, row in run.trace_rows("meter")}  # the last one of each
    began = {function: row["now_s"] for function, _, row in run.trace_rows("function") if "now_s" in row}
    own = {(row["worker"], row["seq"]): row for _, _, row in run.trace_rows("update")}
    seen_to_end = {info.key for info in run.store.list(keys.USAGE)}
    usage = {each.function: each for each in run.usage() if keys.usage(each.function) in seen_to_end}
    found = []
    for function, mine in rows.items():
        first, worked_s = mine[0], reported.get(function, 0.0)
        shift_s = (
            first["published_s"] - own[first["worker"], first["seq"]]["published_s"]
        )  # from its clock to the common one
        start_s = began[function] + shift_s if function in began else first["started_s"]
        spans = tuple(function_spans(mine))
        end_s = max([start_s + worked_s, *(span.end_s for span in spans[-1:])])
        used = usage.get(function)
        died = used is not None and not used.complete
        cold_s = max(0.0, used.seconds - worked_s) if used is not None and not died else 0.0
        found.append(FunctionLife(function, start_s - cold_s, start_s, end_s, died, len(mine), spans))
    yield from sorted(found, key=lambda life: (life.began_s, life.function))
