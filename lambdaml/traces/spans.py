"""Spans of time: what was done for an update when, and what a function did when.

An update's life has no gap: it waits, is computed, encoded and uploaded until it is published, and then waits, is
downloaded by its function with the others of its commit, and applied. A function may hold several workers, whose updates
overlap; it does at each moment the first of `DOING` that it does for any of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

DOING = ("compute", "encode", "upload", "download", "apply", "wait")
"""The phases of an update's life, those first that say more about what its function does."""

_PHASES = ("wait", "compute", "encode", "upload", "wait", "download", "apply")
"""The phases of an update's life, in order."""


class Span(NamedTuple):
    """Says what a function did from one moment to another, in seconds on one clock."""

    begin_s: float
    end_s: float
    phase: str


def phase_spans(row: Mapping[str, Any], end: float) -> list[Span]:
    """Return the phases of an update, one after the other without a gap; what is left over was waiting.

    Args:
        row: A row of a trace, or one that a function measured, with its moments on one clock.
        end: The last moment of its function on the same clock.
    """
    started, published, applied = row["started_s"], row["published_s"], row.get("applied_s")
    applied = published if applied is None else min(max(published, applied), max(end, published))
    # Phases are the last things before the end of each part, and waiting is before them.
    uploaded = max(started, published - row["upload_s"])
    encoded = max(started, uploaded - row["encode_s"])
    computed = max(started, encoded - row["compute_s"])
    took = max(published, applied - (row.get("apply_s") or 0.0))
    read = max(published, took - (row.get("download_s") or 0.0))
    cuts = (started, computed, encoded, uploaded, published, read, took, applied)
    lasting = zip(pairwise(cuts), _PHASES, strict=True)
    return [Span(begin, until, phase) for (begin, until), phase in lasting if until > begin]


def function_spans(rows: Iterable[Mapping[str, Any]]) -> list[Span]:
    """Return what one function did, from the rows of its updates; nothing stands for moments with no update under way."""
    spans = sorted(span for row in rows for span in phase_spans(row, float("inf")))
    if any(later.begin_s < earlier.end_s for earlier, later in pairwise(spans)):
        spans = _told_apart(spans)
    found: list[Span] = []
    for span in spans:
        if found and found[-1].phase == span.phase and found[-1].end_s == span.begin_s:
            found[-1] = Span(found[-1].begin_s, span.end_s, span.phase)
        else:
            found.append(span)
    return found


def _told_apart(spans: Sequence[Span]) -> list[Span]:
    """Return the phases of updates that overlap as what their function did at each moment."""
    moments = sorted(
        [(span.begin_s, 1, span.phase) for span in spans] + [(span.end_s, -1, span.phase) for span in spans]
    )
    under_way = dict.fromkeys(DOING, 0)
    found = []
    for (now, change, phase), (then, _, _) in pairwise(moments):
        under_way[phase] += change
        if then > now and (doing := next((name for name in DOING if under_way[name]), None)) is not None:
            found.append(Span(now, then, doing))
    return found


def thinned_spans(spans: Sequence[Span], width_s: float) -> list[Span]:
    """Return fewer spans: in each stretch of `width_s` seconds, the phase that took most of it."""
    found: list[Span] = []
    shares: dict[str, float] = {}
    stretch = None

    def close() -> None:
        if stretch is not None and shares:
            phase = max(shares, key=shares.__getitem__)
            begin, end = stretch * width_s, (stretch + 1) * width_s
            if found and found[-1].phase == phase and abs(found[-1].end_s - begin) < width_s / 2:
                found[-1] = Span(found[-1].begin_s, end, phase)
            else:
                found.append(Span(begin, end, phase))
        shares.clear()

    for span in spans:
        begin = span.begin_s
        while begin < span.end_s:
            number = int(begin // width_s)
            if number != stretch:
                close()
                stretch = number
            until = min(span.end_s, (number + 1) * width_s)
            until = until if until > begin else span.end_s  # a rest that is too small for floats
            shares[span.phase] = shares.get(span.phase, 0.0) + until - begin
            begin = until
    close()
    return found
