"""The verb `lambdaml status`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from lambdaml.cli import _format, _options
from lambdaml.errors import UserError

if TYPE_CHECKING:
    from lambdaml.log.status import Status


_Watch = Annotated[
    bool,
    typer.Option("--watch", help="Follow the run until it has ended, or nobody works on it. Ctrl-C leaves it alone."),
]
_Keep = Annotated[
    bool, typer.Option("--keep", help="With --watch: start functions on Lambda again if all have fallen silent.")
]


def status(
    run: _options.Run,
    watch: _Watch = False,
    keep: _Keep = False,
    function: _options.LambdaFunction = None,
    region: _options.Region = None,
    endpoint_url: _options.EndpointURL = None,
    as_json: _options.Json = False,
) -> int:
    """Say whether a run is running or stopped, or how it ended."""
    from lambdaml.run import Run

    if watch:
        from lambdaml.cli._watch import watch as follow
        from lambdaml.engines.invoke import Invoker

        follow(run, (lambda: Invoker(function or "lambdaml", region or "", endpoint_url or "")) if keep else None)
    elif keep:
        raise UserError("--keep starts functions again while you watch: give --watch, too")
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
