"""The chart of what functions did when, which can be zoomed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lambdaml.pages.charts import COLOURS, Axis, Chart, encoded, tooltip
from lambdaml.traces.lives import FunctionLife
from lambdaml.traces.spans import Span, thinned_spans

MOST_SPANS = 6000
"""A timeline has at most about this many spans; if there are more, each stretch of time shows what took most of it."""

_COLOUR = {
    "cold start": COLOURS[6],
    "compute": COLOURS[0],
    "encode": COLOURS[5],
    "upload": COLOURS[1],
    "download": COLOURS[4],
    "apply": COLOURS[2],
    "wait": "var(--line)",
    "other": COLOURS[7],
}
_COLUMNS = {"function": "function", "phase": "phase", "begin": "from, s", "end": "to, s"}


def timeline(functions: Sequence[FunctionLife]) -> Chart | None:
    """Return the chart, with a row for each function; None if there is no function.

    The page's buttons change the signals `begin` and `end`, between which the x axis lies.
    """
    if not functions:
        return None
    died = sum(life.died for life in functions)
    many = sum(len(life.spans) for life in functions)
    begin, end = min(life.asked_s for life in functions), max(life.ended_s for life in functions)
    width_s = (end - begin) * len(functions) / MOST_SPANS if many > MOST_SPANS else 0.0
    rows = [row for life in functions for row in _rows(life, width_s)]
    x = encoded(Axis("begin", "time since the beginning", "s"), rows)
    x["scale"] = {"domainMin": {"expr": "begin"}, "domainMax": {"expr": "end"}, "nice": False, "zero": False}
    y = encoded(Axis("function", "", kind="names"), rows)
    phases = [name for name in _COLOUR if any(row["phase"] == name for row in rows)]
    colour = {"field": "phase", "type": "nominal", "title": None}
    colour["scale"] = {"domain": phases, "range": [_COLOUR[name] for name in phases]}  # type: ignore[assignment]
    place: dict[str, Any] = {"x": x, "y": y}
    bars = {
        "params": [
            {"name": "pick", "select": {"type": "interval", "encodings": ["x"], "zoom": False, "translate": False}}
        ],
        "transform": [{"filter": "datum.phase !== 'died'"}],
        "mark": {"type": "bar", "clip": True, "height": {"band": 0.8}},
        "encoding": {**place, "x2": {"field": "end"}, "color": colour, "tooltip": tooltip(_COLUMNS, rows)},
    }
    deaths = {
        "transform": [{"filter": "datum.phase === 'died'"}],
        "mark": {
            "type": "text",
            "text": "✕",
            "color": "var(--bad)",
            "fontSize": 15,
            "fontWeight": "bold",
            "clip": True,
        },
        "encoding": {**place, "tooltip": tooltip(_COLUMNS, rows)},
    }
    step = 22 if len(functions) <= 24 else 14 if len(functions) <= 64 else 6
    span = [{"name": "begin", "value": begin}, {"name": "end", "value": end}]
    spec = {"params": span, "height": step * len(functions), "layer": [bars, deaths] if died else [bars]}
    about = f"What each of {len(functions)} functions did over {end - begin:.1f} seconds; {died} of them died."
    note = "✕ stands where a function died." if died else ""
    if width_s:
        note = f"Each stretch of {width_s:.2g} s shows what took most of it; 'lambdaml trace' has each update. {note}"
    return Chart("What functions did, and when", about, spec, rows, _COLUMNS, (), note.strip())


def _rows(life: FunctionLife, width_s: float) -> list[dict[str, Any]]:
    spans = list(thinned_spans(life.spans, width_s) if width_s else life.spans)
    if life.began_s - life.asked_s > max(width_s, 1e-3):
        spans.insert(0, Span(life.asked_s, life.began_s, "cold start"))
    if life.died:
        spans.append(Span(life.ended_s, life.ended_s, "died"))
    return [
        {
            "function": life.function,
            "phase": span.phase,
            "begin": round(max(span.begin_s, life.asked_s), 4),
            "end": round(min(span.end_s, life.ended_s) if span.phase != "died" else span.end_s, 4),
        }
        for span in spans
    ]
