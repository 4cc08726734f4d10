"""The verb `lambdaml verify`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from lambdaml.cli import _format, _options

if TYPE_CHECKING:
    from lambdaml.training.verify import Report

_QUIET_S = 2.0

_Deep = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help="Also compute this share of the updates again, and compare them and what workers remembered with the "
        "objects in the bucket; 1 takes all of them.",
    ),
]


def verify(run: _options.Run, deep: _Deep = None, as_json: _options.Json = False) -> int:
    """Check the whole log, the fate of every update and all checksums, and check that a replay gives the same bits."""
    from lambdaml.log.reader import RunReader
    from lambdaml.training.verify import verify as check

    report = check(
        RunReader(run), _progress("checked", "commits"), deep=deep, computing=_progress("computed", "updates again")
    )
    if as_json:
        _format.print_json({"run": run, "ok": report.ok, **asdict(report)})
    else:
        _print(report)
    return 0 if report.ok else 1


def _progress(done_so_far: str, what: str) -> Callable[[int, int], None]:
    """Return a callback that says on stderr, every other second, how far the check has come."""
    said: float | None = None

    def say(done: int, total: int) -> None:
        nonlocal said
        now = time.monotonic()
        if said is None:
            said = now
        elif now - said > _QUIET_S:
            said = now
            print(f"{done_so_far} {done:,} of {total:,} {what}", file=sys.stderr)

    return say


def _print(report: Report) -> None:
    result = ", the result" if report.model else ""
    _format.print_text(
        f"checked {report.commits:,} commits up to version {report.version:,}, {report.updates:,} updates with a fate "
        f"and {report.pending:,} without, {report.digests:,} digests, {report.snapshots:,} snapshots{result}"
    )
    if report.first:
        print(f"what was before version {report.first:,} is deleted: checked from there on")
    if report.recomputed or report.unchecked:
        memories = f", and compared {report.memories:,} memories" if report.memories else ""
        left = (
            f"; {report.unchecked:,} could not be computed, since what they need is not there"
            if report.unchecked
            else ""
        )
        _format.print_text(f"computed {report.recomputed:,} updates again{memories}{left}")
    if report.controls:
        _format.print_text(f"changed on the way: {', '.join(report.controls)}")
    for fault in report.faults:
        _format.print_text(f"fault: {fault}")
    if report.unproven:
        _format.print_text(f"unproven: {report.unproven}")
    if report.faults or not report.unproven:
        print(f"{len(report.faults)} faults" if report.faults else "OK")
