"""Spans of time: what was done for an update when, and what a function did when.

An update's life has no gap: it waits, is computed, encoded and uploaded until it is published, and then waits, is
downloaded by its function with the others of its commit, and applied. A function may hold several workers, whose updates
overlap; it does at each moment the first of `DOING` that it does for any of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

DOING = ("compute", "encode", "upload", "download", "apply", "wait")
"""The phases of an update's life, those first that say more about what its function does."""


class Span(NamedTuple):
    """Says what a function did from one moment to another, in seconds on one clock."""

    begin_s: float
    end_s: float
    phase: str


def phase_spans(row: Mapping[str, Any], end: float) -> Iterator[Span]:
    """Yield the phases of an update, one after the other without a gap; what is left over was waiting.

    Args:
        row: A row of a trace, or one that a function measured, with its moments on one clock.
        end: The last moment of its function on the same clock.
    """
    started, published = row["started_s"], row["published_s"]
    applied = row.get("applied_s")
    applied = min(max(published, published if applied is None else applied), max(end, published))
    yield from _fitted(started, published, [(name, row[f"{name}_s"]) for name in ("compute", "encode", "upload")])
    yield from _fitted(published, applied, [(name, row.get(f"{name}_s") or 0.0) for name in ("download", "apply")])


def _fitted(begin: float, end: float, phases: list[tuple[str, float]]) -> Iterator[Span]:
    """Yield the phases as the last things before `end`, and waiting before them."""
    cuts = [end]
    for _, seconds in reversed(phases):
        cuts.append(max(begin, cuts[-1] - seconds))
    cuts = [begin, *reversed(cuts)]
    for (since, until), name in zip(pairwise(cuts), ["wait", *(name for name, _ in phases)], strict=True):
        if until > since:
            yield Span(since, until, name)


def function_spans(rows: Iterable[Mapping[str, Any]]) -> list[Span]:
    """Return what one function did, from the rows of its updates; nothing stands for moments with no update under way."""
    spans = [span for row in rows for span in phase_spans(row, float("inf"))]
    moments = sorted(
        [(span.begin_s, 1, span.phase) for span in spans] + [(span.end_s, -1, span.phase) for span in spans]
    )
    under_way = dict.fromkeys(DOING, 0)
    found: list[Span] = []
    for (now, change, phase), (then, _, _) in pairwise(moments):
        under_way[phase] += change
        doing = next((name for name in DOING if under_way[name]), None)
        if doing is None or then <= now:
            continue
        if found and found[-1].phase == doing and found[-1].end_s == now:
            found[-1] = Span(found[-1].begin_s, then, doing)
        else:
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
