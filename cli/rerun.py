"""The verb `lambdaml rerun`."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Annotated

import typer

from lambdaml.cli import _options
from lambdaml.errors import UserError

_Without = Annotated[
    str | None,
    typer.Option(
        metavar="CLIENTS",
        help="The clients whose slots stay empty, such as `client:7,client:9`. Without cohorts a client is a worker.",
    ),
]
_Since = Annotated[
    int,
    typer.Option(min=0, metavar="VERSION", help="The version from which on they are left out; by default the first."),
]
_Store = Annotated[
    str | None,
    typer.Option(metavar="URL", help="The new run's own path or URL; by default the next free ./runs/<job>-<n>."),
]


def rerun(
    context: typer.Context,
    run: _options.Run,
    without: _Without = None,
    since: _Since = 0,
    store: _Store = None,
    functions: _options.Functions = None,
    engine: _options.Engine = None,
    device: _options.Device = "auto",
    as_json: _options.Json = False,
) -> int:
    """Repeat a run in a new place, bit for bit, or with the slots of some clients empty and all else the same."""
    import lambdaml
    from lambdaml.cli._follow import follow
    from lambdaml.log.reader import RunReader
    from lambdaml.options import LaunchOptions
    from lambdaml.training.asked import free_place

    given = _options.asked(context, LaunchOptions).keywords()
    known, left_out = RunReader(run), parse_clients(without or "")
    with nullcontext(store) if store else free_place(known.settings.job.spec) as place:
        return follow(
            place,
            lambda opened, on_event: lambdaml.rerun(known, opened, left_out, since, **given | {"on_event": on_event}),
            as_json,
        )


def parse_clients(text: str) -> list[int]:
    """Read clients such as `client:7,client:9`.

    Raises:
        UserError: If one of them is no client.
    """
    numbers = [part.strip().removeprefix("client:") for part in text.split(",") if text]
    if not all(number.isdecimal() for number in numbers):
        raise UserError(f"--without {text}: write client:7, or client:7,client:9")
    return [int(number) for number in numbers]
