"""Arguments and options that several verbs take."""

from __future__ import annotations

from typing import Annotated

import typer

Run = Annotated[
    str,
    typer.Argument(metavar="RUN", help="Where the run lies: ./path, file:///path, s3://bucket/prefix ..."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and nothing else there.")]

Functions = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="F",
        help="Processes that share the workers; by default one for each worker, but no more than there are cores.",
    ),
]
Engine = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="`local` (processes) or `inline` (this process); by default what the store allows."
    ),
]
Device = Annotated[str, typer.Option(metavar="DEVICE", help="`cpu`, `cuda`, or `auto` for the best there is.")]
Lifetime = Annotated[
    float | None,
    typer.Option(min=1.0, metavar="SECONDS", help="Limit the life of each function, as cloud platforms do."),
]
