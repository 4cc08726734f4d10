"""Numbers, names and tables for people, and JSON for programs."""

from __future__ import annotations

import json
import math
import os
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lambdaml.run import Staleness


def size(size_bytes: float) -> str:
    """`38.8 kB`"""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`"""
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def usd(value: float) -> str:
    """`$12.30`, `$0.0258`, `less than $0.0001`"""
    if 0 < value < 0.0001:
        return "less than $0.0001"
    return f"${value:,.2f}" if value >= 1 or value == 0 else f"${value:.4f}"


def metrics(values: Mapping[str, float]) -> str:
    """`accuracy 0.9667, loss 0.127`"""
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items()) or "no metrics"


def counts(values: Mapping[str, int]) -> str:
    """`create 250, get 1,367`"""
    return ", ".join(f"{name} {count:,}" for name, count in values.items()) or "none"


def staleness(values: Staleness) -> str:
    """`mean 1.65, p50 1, p95 3, max 7`"""
    return f"mean {values.mean:.3g}, p50 {values.p50:.0f}, p95 {values.p95:.0f}, max {values.max}"


def shown(url: str) -> str:
    """A run's URL as one would type it here, quoted for the shell: paths below the working folder are relative."""
    path = url.removeprefix("file://")
    if path != url and "?" not in url:
        relative = os.path.relpath(path)
        url = path if relative.startswith("..") else relative
    return shlex.quote(url)


def print_pairs(pairs: Iterable[tuple[str, str]]) -> None:
    """Names and values in two columns."""
    rows = list(pairs)
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:{width}}  {value}")


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[str] = ()) -> None:
    """Rows in columns as wide as they need, so that output is the same on a terminal and in a file.

    Args:
        left: headings of columns that are aligned to the left; the others are numbers.
    """
    lines = [headings, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    for line in lines:
        cells = (
            f"{cell:{width}}" if heading in left else f"{cell:>{width}}"
            for heading, cell, width in zip(headings, line, widths)
        )
        print("  ".join(cells).rstrip())


def print_json(value: Any) -> None:
    """Strict JSON on stdout: what is not a finite number becomes null."""
    json.dump(_finite(value), sys.stdout, indent=2, allow_nan=False)
    print()


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
