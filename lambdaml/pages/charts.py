"""Charts of all pages and of the figures in the documentation, as Vega-Lite specifications.

A chart is plain data: rows, and a specification that says which fields of them are drawn how. `lambdaml.pages` puts charts
on a page, with the same rows as a table below each of them, and `lambdaml.pages.figures` writes one as an SVG file.
Colours are names of CSS variables (`lambdaml/pages/templates/style.css`), so that one chart suits light and dark pages.
Series also differ in dashes, shapes or places, so that nobody needs to tell colours apart.

The grammar is that of Vega-Lite (https://vega.github.io/vega-lite/docs/); the colours are those of Okabe and Ito
(https://jfly.uni-koeln.de/color/), which people of all kinds of colour vision tell apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

COLOURS = tuple(f"var(--series-{number})" for number in range(1, 9))
"""The colours of series, in the order in which they are given out."""

_DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3])
_POINTS_UP_TO = 60
"""Lines with at most this many points in all show each of them."""

_LABELS = {
    "s": "datum.value < 120 ? format(datum.value, '~g') + ' s' : datum.value < 7200 ? format(datum.value / 60, '~g') + "
    "' min' : format(datum.value / 3600, '~g') + ' h'",
    "usd": "'$' + format(datum.value, '~g')",
    "bytes": "format(datum.value, '~s') + 'B'",
    "": "abs(datum.value) >= 10000 ? format(datum.value, '~s') : format(datum.value, '~g')",
}


@dataclass(frozen=True, slots=True)
class Axis:
    """Says which field of the rows an axis shows.

    Attributes:
        field: The name of the field.
        title: The title of the axis.
        unit: The unit of the labels: seconds, US dollars, bytes, or none.
        kind: The kind of the axis: a number, the logarithm of a number, or names in the order of the rows.
        zero: Whether a linear axis begins at zero.
    """

    field: str
    title: str
    unit: Literal["", "s", "usd", "bytes"] = ""
    kind: Literal["linear", "log", "names"] = "linear"
    zero: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """A field that the reader of a page may put on the x axis of a chart."""

    label: str
    axis: Axis


@dataclass(frozen=True, slots=True)
class Chart:
    """Holds one chart.

    Attributes:
        title: The caption.
        about: A sentence for those who do not see the chart, which says what it shows.
        spec: The Vega-Lite view, without its data.
        rows: The data: one mapping from field to plain value for each mark.
        columns: The headings of the table of the same numbers, by field.
        choices: The fields that may be put on the x axis.
        note: A sentence below the chart; "" if there is none.
    """

    title: str
    about: str
    spec: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    columns: Mapping[str, str]
    choices: Sequence[Choice] = ()
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the chart as plain values for the script of a page. Rows are lists, in the order of `fields`."""
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        rows = [[row.get(name) for name in names] for row in self.rows]
        choices = [{"field": each.axis.field, "spec": encoded(each.axis, self.rows)} for each in self.choices]
        spec = {"fields": names, "rows": rows, "spec": self.spec, "choices": choices}
        return {**spec, "columns": [[name, heading] for name, heading in self.columns.items()]}


def encoded(axis: Axis, rows: Sequence[Mapping[str, Any]], **more: Any) -> dict[str, Any]:
    """Return the encoding of an axis in a Vega-Lite view."""
    if axis.kind == "names":
        names = list(dict.fromkeys(str(row[axis.field]) for row in rows if row.get(axis.field) is not None))
        return {"field": axis.field, "type": "nominal", "title": axis.title, "sort": names, **more}
    shown: dict[str, Any] = {"labelExpr": _LABELS[axis.unit]}
    scale: dict[str, Any] = {"zero": axis.zero, "nice": True}
    if axis.kind == "log":
        values = [
            row[axis.field] for row in rows if isinstance(row.get(axis.field), int | float) and row[axis.field] > 0
        ]
        shown["labelOverlap"] = False
        shown["values"] = log_ticks(min(values, default=1.0), max(values, default=1.0))
        scale = {"type": "log", "nice": False, "padding": 8}
    return {"field": axis.field, "type": "quantitative", "title": axis.title, "axis": shown, "scale": scale, **more}


def log_ticks(low: float, high: float) -> list[float]:
    """Return round values of which at least two lie between the two positive numbers, or next to them."""
    decades = math.log10(high / low) if high > low else 0.0
    factors = [1] if decades >= 3 else [1, 2, 5] if decades > 0.6 else [1, 1.5, 2, 3, 4, 5, 7]
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    values = [float(f"{factor * 10.0**power:.3g}") for power in powers for factor in factors]
    inside = [value for value in values if low * 0.8 <= value <= high * 1.25]
    return inside if len(inside) > 1 else [low, high]


def series(name: str, names: Sequence[str], title: str | None = None) -> dict[str, Any]:
    """Return the encoding that gives each series its colour. A single series without a name needs no legend."""
    colours = [COLOURS[number % len(COLOURS)] for number in range(len(names))]
    one = {} if any(names) else {"legend": None}
    return {"field": name, "type": "nominal", "title": title, "scale": {"domain": list(names), "range": colours}, **one}


def tooltip(columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the encoding of a tooltip that has all columns of the table."""
    shown = []
    for name, heading in columns.items():
        number = any(isinstance(row.get(name), int | float) for row in rows)
        more = {"type": "quantitative", "format": ",.5~g"} if number else {"type": "nominal"}
        shown.append({"field": name, "title": heading, **more})
    return shown


def line_chart(
    title: str,
    about: str,
    rows: Sequence[Mapping[str, Any]],
    x: Axis,
    y: Axis,
    by: str,
    columns: Mapping[str, str],
    dashed: Sequence[str] = (),
    choices: Sequence[Choice] = (),
    note: str = "",
    height: int = 240,
) -> Chart:
    """Return a chart with a line for each value of the field `by`.

    Args:
        title, about, rows, columns, choices, note: The parts of the chart; see `Chart`.
        x, y: The axes.
        by: The field that holds the name of the line.
        dashed: The names of the lines that are dashed, and have the colour of the line before them, such as bounds.
        height: The height of the drawing, in pixels.
    """
    names = list(dict.fromkeys(str(row[by]) for row in rows))
    plain = [name for name in names if name not in dashed]
    colour = series(by, names)
    before = {name: max(0, sum(other in plain for other in names[: names.index(name) + 1]) - 1) for name in names}
    colour["legend"] = {"symbolType": "stroke"}
    colour["scale"]["range"] = [COLOURS[before[name] % len(COLOURS)] for name in names]
    patterns = [[4, 3] if name in dashed else _DASHES[before[name] // len(COLOURS) % len(_DASHES)] for name in names]
    if not dashed:
        patterns = [_DASHES[number % len(_DASHES)] for number in range(len(names))]
    dash = {"field": by, "type": "nominal", "title": None, "scale": {"domain": names, "range": patterns}}
    spec = {
        "height": height,
        "mark": {"type": "line", "strokeWidth": 2, "point": {"size": 24} if len(rows) <= _POINTS_UP_TO else False},
        "encoding": {
            "x": encoded(x, rows),
            "y": encoded(y, rows),
            "color": colour,
            "strokeDash": dash,
            "tooltip": tooltip(columns, rows),
        },
    }
    if len(rows) > _POINTS_UP_TO:  # the point nearest to the pointer
        nearest = {
            "name": "near",
            "select": {"type": "point", "on": "pointerover", "nearest": True, "clear": "pointerout"},
        }
        encoding = dict(spec["encoding"])  # type: ignore[call-overload]
        shown = {"condition": {"param": "near", "empty": False, "value": 1}, "value": 0}
        points = {
            "mark": {"type": "point", "filled": True, "size": 48},
            "params": [nearest],
            "encoding": {**{name: encoding[name] for name in ("x", "y", "color", "tooltip")}, "opacity": shown},
        }
        lines_only = {"mark": spec["mark"], "encoding": encoding}
        spec = {"height": height, "layer": [lines_only, points]}
    return Chart(title, about, spec, rows, columns, choices, note)


def bar_chart(
    title: str,
    about: str,
    rows: Sequence[Mapping[str, Any]],
    x: Axis,
    y: Axis,
    by: str,
    columns: Mapping[str, str],
    stacked: bool = True,
    spread: str = "",
    note: str = "",
    height: int = 240,
    level: float | None = None,
) -> Chart:
    """Return a chart with bars, and in them or side by side a part for each value of the field `by`.

    Args:
        title, about, rows, columns, note: The parts of the chart; see `Chart`. A row whose value is None is drawn as a
            cross on the axis.
        x, y: The axes; bars stand on the one with names.
        by: The field that holds the name of the part.
        stacked: Whether the parts stand on each other rather than side by side.
        spread: The field with the deviation that is drawn as a line in the middle of a bar; "" for none.
        height: The height of the drawing in pixels; if the y axis has names, it follows from their number.
        level: The value at which a line is drawn through all bars.
    """
    names = list(dict.fromkeys(str(row[by]) for row in rows))
    upright = x.kind == "names"
    base, value = (x, y) if upright else (y, x)
    across, up = ("x", "y") if upright else ("y", "x")
    amount = encoded(value, rows)
    amount["scale"]["zero"] = True
    amount["stack"] = "zero" if stacked else None
    place = encoded(base, rows)
    if upright:
        place["axis"] = {"labelAngle": 0, "labelOverlap": True}
    encoding: dict[str, Any] = {
        across: place,
        up: amount,
        "color": series(by, names),
        "tooltip": tooltip(columns, rows),
    }
    aside = {} if stacked else {f"{across}Offset": {"field": by, "type": "nominal", "sort": names}}
    encoding |= aside
    layers: list[dict[str, Any]] = [{"mark": {"type": "bar"}, "encoding": encoding}]
    if spread:
        ends = [
            {"calculate": f"datum['{value.field}'] {sign} datum['{spread}']", "as": f"{name}"}
            for sign, name in (("-", "low"), ("+", "high"))
        ]
        span = {**amount, "field": "low"}, {"field": "high"}
        rule = {across: place, **aside, up: span[0], f"{up}2": span[1]}
        layers.append({"transform": ends, "mark": {"type": "rule", "color": "var(--ink)"}, "encoding": rule})
    if any(row.get(value.field) is None for row in rows):
        missing = [{"filter": f"datum['{value.field}'] === null"}]
        cross = {**encoding, up: {"datum": 0}, "color": series(by, names)}
        layers.append(
            {"transform": missing, "mark": {"type": "point", "shape": "cross", "angle": 45}, "encoding": cross}
        )
    if level is not None:
        line = {"type": "rule", "strokeDash": [3, 3], "color": "var(--ink)"}
        layers.append({"mark": line, "encoding": {up: {"datum": level}}})
    size = {"height": height if upright else 22 * len({row[base.field] for row in rows})}
    return Chart(title, about, {**size, "layer": layers}, rows, columns, (), note)


def point_chart(
    title: str,
    about: str,
    rows: Sequence[Mapping[str, Any]],
    x: Axis,
    y: Axis,
    by: str,
    looks: Mapping[str, tuple[str, str, int]],
    columns: Mapping[str, str],
    path: Sequence[str] = (),
    note: str = "",
    height: int = 380,
) -> Chart:
    """Return a chart with a point for each row.

    Args:
        title, about, rows, columns, note: The parts of the chart; see `Chart`.
        x, y: The axes.
        by: The field that holds the kind of a point.
        looks: The colour, the shape and the area in square pixels of each kind, the one that lies on top last.
        path: The kinds whose points are joined by a line.
        height: The height of the drawing, in pixels.
    """
    kinds = list(looks)
    colour = {**series(by, kinds), "scale": {"domain": kinds, "range": [look[0] for look in looks.values()]}}
    shape = {**series(by, kinds), "scale": {"domain": kinds, "range": [look[1] for look in looks.values()]}}
    place = {"x": encoded(x, rows), "y": encoded(y, rows)}
    layers: list[dict[str, Any]] = []
    if path:
        among = " || ".join(f"datum['{by}'] === '{kind}'" for kind in path)
        line = {"type": "line", "color": "var(--series-3)", "strokeWidth": 1.5, "tooltip": False}
        layers.append(
            {"transform": [{"filter": among}], "mark": line, "encoding": {**place, "order": {"field": x.field}}}
        )
    for kind, (_, _, size) in looks.items():
        only = [{"filter": f"datum['{by}'] === '{kind}'"}]
        encoding = {**place, "color": colour, "shape": shape, "tooltip": tooltip(columns, rows)}
        mark = {"type": "point", "filled": True, "opacity": 0.9, "size": size}
        layers.append({"transform": only, "mark": mark, "encoding": encoding})
    return Chart(title, about, {"height": height, "layer": layers}, rows, columns, (), note)
