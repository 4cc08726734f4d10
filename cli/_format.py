"""Formats numbers, names and tables for people, and JSON for programs."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, TextIO

from lambdaml.cli._stdout import results
from lambdaml.errors import UserError
from lambdaml.pages import finite
from lambdaml.storage.url import as_typed
from lambdaml.wording import metrics_text

if TYPE_CHECKING:
    from lambdaml.log.status import Status
    from lambdaml.log.summary import Staleness
    from lambdaml.settings import Settings


shown, metrics = as_typed, metrics_text

_NARROW = 16
"""The least number of columns for words."""

_WHOLE: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}


def size(size_bytes: float) -> str:
    """Format a size, such as `38.8 kB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"


def duration(seconds: float) -> str:
    """Format a duration, such as `0.4 s`, `12 s`, `3 min 20 s` or `2 h 5 min`."""
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def usd(value: float) -> str:
    """Format an amount of money, such as `$12.30`, `$0.0258` or `less than $0.0001`."""
    if 0 < value < 0.0001:
        return "less than $0.0001"
    return f"${value:,.2f}" if value >= 1 or value == 0 else f"${value:.4f}"


def counts(values: Mapping[str, int]) -> str:
    """Format counts, such as `create 250, get 1,367`."""
    return ", ".join(f"{name} {count:,}" for name, count in values.items()) or "none"


def workers(run: Settings | Status) -> str:
    """Return how many workers a run has, as in `10 of 100 workers`."""
    return f"{run.workers} workers" if run.clients is None else f"{run.workers} of {run.clients} workers"


def staleness(values: Staleness) -> str:
    """Format a staleness, such as `mean 1.65, p50 1, p95 3, max 7`."""
    return f"mean {values.mean:.3g}, p50 {values.p50:.0f}, p95 {values.p95:.0f}, max {values.max}"


def columns() -> int:
    """Return how wide the output may be: as wide as the terminal, or 80 columns if there is none."""
    return shutil.get_terminal_size((80, 24)).columns


def print_text(text: str, indent: str = "", first: str | None = None) -> None:
    """Print sentences, broken between words.

    Args:
        indent: The text before each line.
        first: The text before the first line, in place of `indent`.
    """
    for line in _wrapped(text, columns() - len(indent)):
        print(f"{indent if first is None else first}{line}".rstrip())
        first = None


def wrapped(text: str, indent: str) -> list[str]:
    """Break a text into lines that fit, with this indent before all but the first."""
    return textwrap.wrap(text, columns(), subsequent_indent=indent, **_WHOLE)


def placeless(message: str) -> str:
    """Leave out the file and the line that the message of an error of the job ends with; the lines of the job that follow it
    say more."""
    return re.sub(r" \([^()]*:\d+\)$", "", message)


def frame(line: str, used: int) -> list[str]:
    """Break a line of a job, such as `my.py:31 in loss: x = self.encode(batch)`, before its code, and cut the code where
    it does not fit.

    Args:
        used: The number of columns that are used already.
    """
    place, colon, code = line.partition(": ")
    room = max(columns() - used - 2, _NARROW)
    return [place, f"  {code if len(code) <= room else f'{code[: room - 4]} ...'}"] if colon else [line]


def print_command(command: str, indent: str = "  ") -> None:
    """Print a command for a shell, on as many lines as it takes."""
    pieces: list[str] = []  # words, and options with their values
    for word in map(shlex.quote, shlex.split(command)):
        if pieces and pieces[-1].startswith("--") and "\0" not in pieces[-1] and not word.startswith("--"):
            pieces[-1] += "\0" + word.replace(" ", "\0")
        else:
            pieces.append(word.replace(" ", "\0"))
    lines = textwrap.wrap(" ".join(pieces), columns() - len(indent) - 4, **_WHOLE)
    print(
        " \\\n".join(f"{indent}{'  ' if number else ''}{line}" for number, line in enumerate(lines)).replace("\0", " ")
    )


def print_pairs(pairs: Iterable[tuple[str, str]]) -> None:
    """Print names and values in two columns."""
    rows = list(pairs)
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        if value.startswith("lambdaml "):  # for the user to paste
            print(f"{name:{width}}  {value}")
        else:
            print_text(value, " " * (width + 2), f"{name:{width}}  ")


def print_table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[str] = (), keys: int = 1
) -> None:
    """Print rows in columns that are as wide as they need.

    If that is too wide, the widest column of words is broken between words. If that is not enough, the columns are
    split into several tables.

    Args:
        left: The headings of the columns that are aligned to the left; the others are numbers.
        keys: The number of columns that name the row and are repeated in each of the tables.
    """
    lines = [list(headings), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    every, words = range(len(headings)), [column for column, heading in enumerate(headings) if heading in left]
    whole = _narrowed(widths, every, words)
    for number, block in enumerate([every] if whole is not None else _blocks(widths, keys)):
        if number:
            print()
        _print_columns(lines, block, whole or _narrowed(widths, block, words) or widths, left)


def _narrowed(widths: Sequence[int], block: Sequence[int], words: Sequence[int]) -> Sequence[int] | None:
    """Return widths with which these columns fit, if necessary with the widest column of words narrowed, or None."""
    excess = sum(widths[column] for column in block) + 2 * (len(block) - 1) - columns()
    if excess <= 0:
        return widths
    widest = max((column for column in block if column in words), key=widths.__getitem__, default=None)
    if widest is None or widths[widest] - excess < _NARROW:
        return None
    return [width - excess if column == widest else width for column, width in enumerate(widths)]


def _blocks(widths: Sequence[int], keys: int) -> Iterator[Sequence[int]]:
    """Yield the columns of each table."""
    block = list(range(keys))
    for column in range(keys, len(widths)):
        if len(block) > keys and sum(widths[c] + 2 for c in block) + widths[column] > columns():
            yield block
            block = list(range(keys))
        block.append(column)
    yield block


def _print_columns(
    lines: Sequence[Sequence[str]], block: Sequence[int], widths: Sequence[int], left: Sequence[str]
) -> None:
    for line in lines:
        cells = [_wrapped(line[column], widths[column]) for column in block]
        for parts in zip_longest(*cells, fillvalue=""):
            aligned = (
                f"{part:{widths[column]}}" if lines[0][column] in left else f"{part:>{widths[column]}}"
                for column, part in zip(block, parts, strict=True)
            )
            print("  ".join(aligned).rstrip())


def _wrapped(text: str, width: int) -> list[str]:
    """Break a text into lines of whole words, at least one."""
    return textwrap.wrap(text, max(width, _NARROW), **_WHOLE) if len(text) > width else [text]


def write_csv(target: str, headings: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as CSV to a file, or to stdout if the target is `-`.

    Raises:
        UserError: If the file cannot be written. A stdout that nobody reads any more is no mistake of the user's.
    """
    if target == "-":
        _csv_to(results(), headings, rows)
        results().flush()
        return
    try:
        with open(target, "w", newline="", encoding="utf-8") as file:
            _csv_to(file, headings, rows)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}") from error


def _csv_to(file: TextIO, headings: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    writer = csv.DictWriter(file, headings, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def print_json(value: Any) -> None:
    """Print strict JSON on stdout; numbers that are not finite become null."""
    print(json.dumps(finite(value), indent=2, allow_nan=False), file=results(), flush=True)
