"""Draws what has been seen of a run, in lines that fit the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from lambdaml.cli import _format
from lambdaml.cli._plot import bar, spark
from lambdaml.log.stops import ending
from lambdaml.wording import metric_name

if TYPE_CHECKING:
    from lambdaml.cost.reporting.spending import Against, Spending
    from lambdaml.settings import Settings
    from lambdaml.traces.seen import Curve, Seen, SeenWorker

_NAMES = 11
"""The columns for the names of facts."""

_FEWEST = 4
"""At least so many workers are shown, however low the terminal is."""

Line = tuple[str, str]
"""A style of rich, and a line of text."""


def view(seen: Seen, spending: Spending, settings: Settings, width: int, height: int) -> list[Line]:
    """Return the lines of the whole picture, each at most `width` columns wide, about `height` of them."""
    lines: list[Line] = []
    for name, value, style in _facts(seen, spending, settings, width):
        value = f"{bar(seen.progress, 20)} {value}" if name == _state(seen) else value
        for number, line in enumerate(textwrap.wrap(value, width - _NAMES) or [""]):
            lines.append((style, f"{'' if number else name:{_NAMES}}{line}"))
    shown = max(_FEWEST, height - len(lines) - 4)
    lines += [("", ""), *(("", line[:width]) for line in _workers(seen, shown))]
    cost = _cents(spending.view_usd)
    return [*lines, ("dim", f"this view: {seen.asked.total:,} requests, {cost}")]


def words(seen: Seen, spending: Spending, settings: Settings) -> list[tuple[str, str]]:
    """Return the facts of the picture that are no curves, as names and words."""
    facts = [
        (name, value) for name, value, style in _facts(seen, spending, settings, 80) if name and style in ("", "bold")
    ]
    return [*facts, ("this view", f"{seen.asked.total:,} requests, {_cents(spending.view_usd)}")]


def sentence(seen: Seen) -> str:
    """Return the picture in one line, for places that are no terminal."""
    facts = [f"version {seen.version}", f"{seen.progress:.0%}"]
    if seen.loss:
        facts.append(f"training loss {seen.loss[-1][1]:.4g}")
    if seen.metrics:
        facts.append(_format.metrics({name: curve[-1][1] for name, curve in seen.metrics.items() if curve}))
    if seen.left_s is not None:
        facts.append(f"{_format.duration(seen.left_s)} left")
    return f"{', '.join(facts)}{f'; {stall(seen)}' if seen.stalled else ''}"


def stall(seen: Seen) -> str:
    """Say since when nothing has moved, and for whom the run waits."""
    waits = [_awaited(worker) for worker in seen.awaited]
    more = f" and {len(waits) - 3} others" if len(waits) > 3 else ""
    for_whom = f", waiting for {', '.join(waits[:3])}{more}" if waits else ""
    return f"STALLED: nothing for {_format.duration(seen.quiet_s)}{for_whom}"


def _awaited(worker: SeenWorker) -> str:
    return f"worker {worker.worker}{f' (held by {worker.holder})' if worker.holder else ''}"


def _facts(seen: Seen, spending: Spending, settings: Settings, width: int) -> Iterator[tuple[str, str, str]]:
    until = f", until {seen.target}" if seen.target else f", {settings.steps:,} steps"
    yield "run", f"{_format.shown(seen.run)}: {seen.schedule}, {_format.workers(settings)}{until}", "bold"
    left = f", {_format.duration(seen.left_s)} left" if seen.left_s is not None else ""
    end = f", {ending(seen.state)}" if seen.over else ""
    yield _state(seen), f"{seen.progress:.0%}{left}{end}", "bold"
    pace = f", {_pace(seen.usual_s)}" if seen.usual_s else ""
    ago = f", the last one seen {_format.duration(seen.quiet_s)} ago" if not seen.over else ""
    yield "version", f"{seen.version:,} after {seen.commits:,} commits{pace}{ago}", ""
    if seen.stalled:
        yield "", stall(seen), "bold red"
    for name, curve in {
        "loss": seen.loss,
        **{metric_name(name): curve for name, curve in seen.metrics.items()},
    }.items():
        if curve:
            yield name if len(name) < _NAMES else "", _curve(name, curve, width - _NAMES), "cyan"
    if seen.parts:
        yield "loss parts", _format.metrics(seen.parts), ""
    yield "staleness", _staleness(seen), ""
    yield "requests", _against(spending.requests, lambda value: f"{value:,.0f}"), ""
    billed = f" ({spending.platform}, {spending.channel})"
    yield "cost", f"{_against(spending.usd, _format.usd)}{billed}", ""
    if spending.seconds.planned or spending.seconds.cap:
        yield "time", _against(spending.seconds, _format.duration), ""
    yield "survived", _survived(seen), ""


def _state(seen: Seen) -> str:
    return "ended" if seen.over else seen.state


def _pace(usual_s: float) -> str:
    return f"{1 / usual_s:.3g} a second" if usual_s < 1 else f"one in {_format.duration(usual_s)}"


def _curve(name: str, curve: Curve, width: int) -> str:
    long = f"{name}: " if len(name) >= _NAMES else ""
    ends = f"{long}{curve[0][1]:.4g} ", f" {curve[-1][1]:.4g} at version {curve[-1][0]}"
    values = [value for _, value in curve]
    return f"{ends[0]}{spark(values, min(40, width - sum(map(len, ends))))}{ends[1]}"


def _staleness(seen: Seen) -> str:
    words = f"mean {seen.staleness.mean:.3g}, p95 {seen.staleness.p95:.0f}"
    words += f"; lately mean {seen.recent.mean:.3g}, p95 {seen.recent.p95:.0f}"
    whole = sum(seen.phases.values())
    if whole:
        shares = ", ".join(f"{name} {seconds / whole:.0%}" for name, seconds in seen.phases.items())
        words += f"; an update's time: {shares}"
    return words


def _against(found: Against, shown: Callable[[float], str]) -> str:
    words = shown(found.used)
    if found.planned:
        words += f", {found.used / found.planned:.0%} of the plan's {shown(found.planned)}"
    if found.cap:
        words += f", {found.used / found.cap:.0%} of the cap of {shown(found.cap)}"
    return words


def _survived(seen: Seen) -> str:
    counts = {"function died": seen.died, "change of hands": seen.handovers}
    plural = {"function died": "functions died", "change of hands": "changes of hands"}
    words = [f"{count:,} {name if count == 1 else plural[name]}" for name, count in counts.items() if count]
    words += [f"{count:,} updates {fate}" for fate, count in seen.refused.items() if count]
    return ", ".join(words) or "no fault so far"


def _workers(seen: Seen, most: int) -> Iterator[str]:
    """Yield a table of the workers that were silent longest, most of them first; awaited ones come before all."""
    known = sorted(seen.workers, key=lambda worker: (not worker.awaited, -(worker.age_s or 0.0), worker.worker))
    rows = [("worker", "update", "version", "seen", "held by"), *map(_worker, known[:most])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        *numbers, holder = row
        cells = [f"{cell:>{width}}" for cell, width in zip(numbers, widths, strict=False)]
        yield f"{'  '.join(cells)}  {holder}".rstrip()
    if len(known) > most:
        yield f"and {len(known) - most} workers that were seen later"


def _worker(worker: SeenWorker) -> tuple[str, ...]:
    if worker.seq is None or worker.age_s is None:
        update = ("-", "-", "-")
    else:
        update = (f"{worker.seq:,}", f"{worker.version:,}", f"{_format.duration(worker.age_s)} ago")
    awaited = " (the run waits for it)" if worker.awaited else ""
    return str(worker.worker), *update, f"{worker.holder or '?'}{awaited}"


def _cents(usd: float) -> str:
    """Format a very small amount of money, such as `$0.000021`."""
    return f"${usd:.6f}" if usd else "$0"
