"""The verb `lambdaml status`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from lambdaml.cli import _format, _options

if TYPE_CHECKING:
    from lambdaml.log.status import Status


def status(run: _options.Run, as_json: _options.Json = False) -> int:
    """Say whether a run is running or stopped, or how it ended."""
    from lambdaml.run import Run

    found = Run(run).status()
    if as_json:
        _format.print_json(asdict(found))
    else:
        _format.print_pairs(_facts(found))
    return 0


def _facts(found: Status) -> Iterator[tuple[str, str]]:
    yield "run", _format.shown(found.run)
    yield "state", found.state
    yield "version", f"{found.version} after {found.commits} commits ({found.progress:.0%})"
    yield "schedule", f"{found.schedule}, {_format.workers(found)}"
    if found.owners_sha256:
        yield "partition", f"{found.partition} (owners {found.owners_sha256[:12]})"
    if found.first:
        yield "kept from", f"version {found.first}: earlier ones cannot be replayed any more"
    if found.changes:
        yield "changes", ", ".join(found.changes)
    if found.init_from is not None:
        yield "began with", _format.shown(found.init_from)
    if found.metrics_version is not None:
        yield "metrics", f"{_format.metrics(found.metrics)} at version {found.metrics_version}"
    if found.functions and found.state == "running":
        yield "functions", ", ".join(found.functions)
    if found.age_s is not None:
        yield "last commit", f"{_format.duration(found.age_s)} ago"
    if found.model:
        yield "result", "model.safetensors"
    if found.reason:
        yield "stopped because", found.reason
    if found.state == "stopped":
        yield "go on with", f"lambdaml resume {_format.shown(found.run)}"
