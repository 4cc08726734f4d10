"""Charts as inline SVG, without a library: grouped bars, and lines. Each mark shows its value when pointed at."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

_COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#999999", "#222222")
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 560.0, 250.0, 46.0, 40.0, 12.0

BarShape = tuple[float | None, float | None, str]
"""The height of a bar (None for a missing one), its deviation, and its tooltip."""


def bar_chart(groups: Mapping[str, Mapping[str, BarShape]], axis: str) -> str:
    """Draw bars in groups, one colour for each name in a group. A missing bar is a cross on the axis."""
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    heights = [height + (spread or 0) for group in groups.values() for height, spread, _ in group.values() if height]
    top = max([1.2, *heights]) * 1.05
    ground = _HEIGHT - _BOTTOM
    scale = (ground - _TOP) / top
    parts = [_level(ground - tick * scale, f"{tick:g}") for tick in _ticks(top)]
    each = (_WIDTH - _LEFT) / max(1, len(groups))
    wide = each * 0.85 / max(1, len(names))
    for number, (label, group) in enumerate(groups.items()):
        left = _LEFT + number * each + each * 0.075
        parts.append(_text(left + each * 0.425, ground + 15, label, "middle"))
        for place, name in enumerate(names):
            if name in group:
                x = left + place * wide
                parts.append(_bar(group[name], x, wide, ground, scale, _COLOURS[place % len(_COLOURS)]))
    parts.append(f'<line class="one" x1="{_LEFT}" x2="{_WIDTH}" y1="{ground - scale:.1f}" y2="{ground - scale:.1f}"/>')
    return _frame(parts, axis, {name: _COLOURS[place % len(_COLOURS)] for place, name in enumerate(names)})


def lines(curves: Mapping[str, Sequence[tuple[float, float]]], across: str, axis: str, logarithmic: bool) -> str:
    """Draw a line for each name. Names ending in `(bound)` or `(guide)` are dashed, coloured as the line before."""
    shown = {name: [(x, y) for x, y in curve if not logarithmic or y > 0] for name, curve in curves.items()}
    points = [point for curve in shown.values() for point in curve]
    if not points:
        return ""
    to: Callable[[float], float] = math.log10 if logarithmic else float
    low_x, high_x = to(min(x for x, _ in points)), to(max(x for x, _ in points))
    low_y, high_y = to(min(y for _, y in points)), to(max(y for _, y in points))
    ground, span_x, span_y = _HEIGHT - _BOTTOM, high_x - low_x or 1.0, high_y - low_y or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        across_x = _LEFT + (to(x) - low_x) / span_x * (_WIDTH - _LEFT - 12)
        return across_x, ground - (to(y) - low_y) / span_y * (ground - _TOP)

    parts = []
    for value in _between(low_y, high_y):
        actual = 10**value if logarithmic else value
        parts.append(_level(ground - (value - low_y) / span_y * (ground - _TOP), f"{actual:.3g}"))
    for value in _between(low_x, high_x):
        x = _LEFT + (value - low_x) / span_x * (_WIDTH - _LEFT - 12)
        parts.append(_text(x, ground + 15, f"{10**value if logarithmic else value:.3g}", "middle"))
    parts.append(_text((_LEFT + _WIDTH) / 2, ground + 32, across, "middle"))
    colours: dict[str, str] = {}
    for name, curve in shown.items():
        dashed = name.endswith(("(bound)", "(guide)"))
        colours[name] = _COLOURS[max(0, sum(not other.endswith(")") for other in colours) - dashed) % len(_COLOURS)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in curve))
        style = ' stroke-dasharray="5 4"' if dashed else ""
        parts.append(f'<polyline fill="none" stroke="{colours[name]}" stroke-width="1.8"{style} points="{path}"/>')
        for point in curve:
            x, y = place(*point)
            says = escape(f"{name}: {point[1]:.4g} at {point[0]:g}")
            parts.append(f'<circle class="mark" data-says="{says}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>')
    return _frame(parts, axis, colours)


def _bar(bar: BarShape, x: float, wide: float, ground: float, scale: float, colour: str) -> str:
    height, spread, says = bar
    says = escape(says)
    middle = x + wide / 2
    if height is None:
        cross = "".join(
            f'<line x1="-3" x2="3" y1="{-way}" y2="{way}" stroke="{colour}" stroke-width="2"/>' for way in (3, -3)
        )
        spot = '<rect x="-6" y="-8" width="12" height="16" fill="transparent"/>'
        return (
            f'<g class="mark" data-says="{says}" transform="translate({middle:.1f} {ground - 6:.1f})">{cross}{spot}</g>'
        )
    tall = height * scale
    shape = f'<rect class="mark" data-says="{says}" x="{x:.1f}" y="{ground - tall:.1f}" width="{wide * 0.9:.1f}" '
    shape += f'height="{tall:.1f}" fill="{colour}"/>'
    if spread:
        low, high = ground - max(0.0, height - spread) * scale, ground - (height + spread) * scale
        shape += f'<line class="spread" x1="{middle:.1f}" x2="{middle:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
    return shape


def _frame(parts: Sequence[str], axis: str, colours: Mapping[str, str]) -> str:
    keys = "".join(
        f'<span><i style="background:{colour}"></i>{escape(name)}</span>' for name, colour in colours.items()
    )
    drawing = f'<svg viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img">{"".join(parts)}</svg>'
    return f'<figure><p class="axis">{escape(axis)}</p>{drawing}<p class="keys">{keys}</p></figure>'


def _level(y: float, label: str) -> str:
    line = f'<line class="level" x1="{_LEFT}" x2="{_WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return line + _text(_LEFT - 5, y + 4, label, "end")


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _ticks(top: float) -> list[float]:
    step = next(step for step in (0.25, 0.5, 1, 2, 5, 10, 20, 50, 100, 1e9) if top / step <= 7)
    return [step * number for number in range(int(top / step) + 1)]


def _between(low: float, high: float) -> list[float]:
    return [low + (high - low) * part / 4 for part in range(5)]
