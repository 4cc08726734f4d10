"""Draws curves with characters: in one line, or as a plot with axes."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from statistics import fmean

Points = Sequence[tuple[float, float]]

_BLOCKS = "▁▂▃▄▅▆▇█"
_PLAIN = "_.-~=+*#"
_MARKS = "*o+x#@%&"
"""The marks of the curves in a plot, in their order."""


def spark(values: Sequence[float], width: int) -> str:
    """Return a line of at most `width` characters whose heights are the means of neighbouring values."""
    if not values:
        return ""
    heights, count = _BLOCKS if _has_blocks() else _PLAIN, min(width, len(values))
    means = [
        fmean(values[number * len(values) // count : (number + 1) * len(values) // count]) for number in range(count)
    ]
    low, high = min(means), max(means)
    scale = (len(heights) - 1) / (high - low) if high > low else 0.0
    return "".join(heights[round((mean - low) * scale)] for mean in means)


def bar(share: float, width: int) -> str:
    """Return a bar of `width` characters, of which this share is filled."""
    filled = round(min(1.0, max(0.0, share)) * width)
    full, empty = "█░" if _has_blocks() else "#."
    return full * filled + empty * (width - filled)


def plot(curves: Mapping[str, Points], width: int, height: int) -> Iterator[str]:
    """Yield the lines of a plot, with the least and the greatest value of each axis at its ends.

    Neighbouring points of a curve are joined by dots; each curve has a mark of its own, which the last lines name if
    there are several.

    Args:
        curves: The curves by name; there is at least one point.
        width: The number of columns of all.
        height: The number of lines of the plot without the axis below.
    """
    points = [point for curve in curves.values() for point in curve]
    (left, right), (low, high) = _range(x for x, _ in points), _range(y for _, y in points)
    labels = [f"{high:.4g}", f"{low:.4g}"]
    margin = max(map(len, labels))
    cells = [[" "] * (width - margin - 3) for _ in range(height)]
    columns = len(cells[0]) - 1

    def place(point: tuple[float, float]) -> tuple[int, int]:
        column = round((point[0] - left) / (right - left) * columns) if right > left else 0
        line = round((high - point[1]) / (high - low) * (height - 1)) if high > low else height // 2
        return column, line

    for curve in curves.values():
        for one, other in pairwise(curve):
            for column, line in _between(place(one), place(other)):
                cells[line][column] = "·" if _has_blocks() else "."
    for mark, curve in zip(_MARKS, curves.values(), strict=False):
        for column, line in map(place, curve):
            cells[line][column] = mark
    for number, line_cells in enumerate(cells):
        label = labels[0] if number == 0 else labels[1] if number == height - 1 else ""
        yield f"{label:>{margin}} | {''.join(line_cells)}".rstrip()
    first, last = f"{left:.6g}", f"{right:.6g}"
    yield f"{'':{margin}} +{'-' * (columns + 2)}"
    yield f"{'':{margin}}   {first}{last:>{columns + 1 - len(first)}}"
    if len(curves) > 1:
        yield from (f"{'':{margin}}   {mark} {name}" for mark, name in zip(_MARKS, curves, strict=False))


def _range(values: Iterator[float]) -> tuple[float, float]:
    known = list(values)
    return min(known), max(known)


def _between(one: tuple[int, int], other: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Yield the cells on the way from one cell to another."""
    steps = max(abs(other[0] - one[0]), abs(other[1] - one[1]))
    for step in range(1, steps):
        yield tuple(round(a + (b - a) * step / steps) for a, b in zip(one, other, strict=True))  # type: ignore[misc]


def _has_blocks() -> bool:
    """Return whether stdout can show more than ASCII."""
    stdout = sys.__stdout__  # rich puts another in the place of `sys.stdout` while it shows something
    return stdout is not None and "utf" in stdout.encoding.lower()
