"""The verb `lambdaml watch`."""

from __future__ import annotations

from typing import Annotated

import typer

from lambdaml.cli import _format, _options

_Keep = Annotated[
    bool, typer.Option("--keep", help="Start functions on Lambda again whenever all of them have fallen silent.")
]

_Web = Annotated[
    bool, typer.Option("--web", help="Serve a page on 127.0.0.1, which shows the same and brings itself up to date.")
]


def watch(
    run: _options.Run,
    web: _Web = False,
    keep: _Keep = False,
    prices: _options.Prices = None,
    function: _options.LambdaFunction = None,
    region: _options.Region = None,
    endpoint_url: _options.EndpointURL = None,
    as_json: _options.Json = False,
) -> int:
    """Watch a run, whoever works on it and wherever, until it has ended or nobody works on it.

    It reads the bucket alone, with at most one request in two seconds or one for a hundred of the run's own. Ctrl-C
    leaves the run alone.
    """
    import lambdaml
    from lambdaml.cli._watch import Watched
    from lambdaml.cli._watch import watch as follow
    from lambdaml.engines.invoke import Invoker

    watched = Watched(run, lambdaml.prices(prices) if prices else None)
    follow(watched, (lambda: Invoker(function or "lambdaml", region or "", endpoint_url or "")) if keep else None, web)
    if as_json:
        _format.print_json(watched.to_dict())
    else:
        for _, line in watched.lines(_format.columns(), 40):
            print(line)
    return 0
