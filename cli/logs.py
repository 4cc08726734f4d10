"""The verb `lambdaml logs`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from lambdaml.cli import _format, _options
from lambdaml.cli._stdout import results

if TYPE_CHECKING:
    from lambdaml.traces.logs import LogLine

_Worker = Annotated[int | None, typer.Option(metavar="W", help="Show the lines of this worker alone.")]
_Follow = Annotated[
    bool, typer.Option("--follow", help="Wait for more, until the run has ended. With --json, each line is an object.")
]

_HEADINGS = ("seconds", "function", "worker", "update")

_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""What would move the cursor of a terminal or colour it."""


def logs(run: _options.Run, worker: _Worker = None, follow: _Follow = False, as_json: _options.Json = False) -> int:
    """Show what the job printed and logged in the run's functions, and the errors that functions failed with.

    A function writes it every 15 s, once it has finished an update, and when it ends. The seconds are those since the
    function began. Of much output the middle is left out.
    """
    from lambdaml.run import Run
    from lambdaml.traces.logs import follow_logs, run_logs

    found = Run(run)
    if not follow:
        lines = run_logs(found, worker)
        if as_json:
            _format.print_json([asdict(line) for line in lines])
        elif lines:
            _print(lines)
        else:
            print("no function has written that the job printed anything")
    elif as_json:
        for line in follow_logs(found, worker):
            print(json.dumps(asdict(line)), file=results(), flush=True)
    else:
        _print(follow_logs(found, worker))
    return 0


def _print(lines: Iterable[LogLine]) -> None:
    """Print lines as they come. Functions have long names, so they are numbered and each is named once."""
    numbers: dict[str, int] = {}
    for line in lines:
        if not numbers:
            print("  ".join(_HEADINGS))
        if line.function not in numbers:
            numbers[line.function] = len(numbers)
            print(f"function {numbers[line.function]} is {line.function}")
        cells = f"{line.seconds:.2f}", numbers[line.function], line.worker, line.seq
        first = "".join(
            f"{'-' if cell is None else cell:>{len(heading)}}  " for cell, heading in zip(cells, _HEADINGS, strict=True)
        )
        indent = " " * len(first)
        for number, text in enumerate(_texts(line, len(first))):
            _format.print_text(text, indent, indent if number else first)
        print(end="", flush=True)


def _texts(line: LogLine, used: int) -> list[str]:
    if line.left_out:
        return [f"({line.left_out:,} lines left out)"]
    text = line.text
    if line.source == "error":
        text = f"error: {_format.placeless(text) if line.frames else text}"
    elif line.level:
        text = f"{line.level} {line.source}: {text}"
    if line.version is not None:
        text = f"version {line.version}: {text}"
    frames = [part for frame in line.frames for part in _format.frame(frame, used)]
    return [*_ESCAPES.sub("", text).expandtabs(4).split("\n"), *frames]
