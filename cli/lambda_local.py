"""The verb `lambdaml lambda-local`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from lambdaml.cli._interrupt import raising
from lambdaml.errors import UserError

_CHANCE = "Trouble"


def lambda_local(
    port: Annotated[int, typer.Option(metavar="PORT", help="The port at 127.0.0.1; 0 takes a free one.")] = 0,
    function: Annotated[str, typer.Option(metavar="NAME", help="The function's name.")] = "lambdaml",
    handler: Annotated[
        str, typer.Option(metavar="MODULE.FUNCTION", help="The handler, found from this folder.")
    ] = "lambdaml.deploy.handler.handler",
    memory: Annotated[int, typer.Option(metavar="MB", help="The function's memory in MB.")] = 1769,
    timeout: Annotated[int, typer.Option(metavar="S", help="The seconds that an invocation may take.")] = 900,
    concurrency: Annotated[int, typer.Option(metavar="N", help="The most invocations that run at a time.")] = 64,
    retry_after: Annotated[
        float, typer.Option(metavar="S", help="The seconds to an event's first retry; to the second it is twice that.")
    ] = 60.0,
    env: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A variable for the function; repeat it for more.")
    ] = None,
    log: Annotated[bool, typer.Option("--log", help="Print on stderr what functions and emulators print.")] = False,
    stay: Annotated[bool, typer.Option("--stay", help="Do not end with standard input.")] = False,
    seed: Annotated[int, typer.Option(metavar="N", help="The seed of what is drawn.", rich_help_panel=_CHANCE)] = 0,
    duplicates: Annotated[
        float, typer.Option(metavar="SHARE", help="How many events come twice.", rich_help_panel=_CHANCE)
    ] = 0.0,
    failures: Annotated[
        float,
        typer.Option(metavar="SHARE", help="How many invocations fail or are killed.", rich_help_panel=_CHANCE),
    ] = 0.0,
    throttles: Annotated[
        float, typer.Option(metavar="SHARE", help="How many calls are answered 429.", rich_help_panel=_CHANCE)
    ] = 0.0,
) -> int:
    """Run a Lambda on this machine, print its URL, and end with standard input (Ctrl-D) or Ctrl-C."""
    from lambdaml.deploy.local_lambda import LocalLambda, serve_lambda

    for pair in env or []:
        if "=" not in pair:
            raise UserError(f"--env takes NAME=VALUE, not {pair}")
    local = LocalLambda(
        handler,
        function,
        memory,
        timeout,
        concurrency,
        seed,
        duplicates,
        failures,
        throttles,
        retry_after,
        environment=dict(pair.split("=", 1) for pair in env or []),
        port=port,
        log=sys.stderr if log else None,
    )
    with raising():
        serve_lambda(local, stay)
    return 0
