"""The verb `lambdaml set`."""

from __future__ import annotations

from typing import Annotated

import typer

from lambdaml.cli import _options
from lambdaml.errors import UserError

_Change = Annotated[
    str, typer.Argument(metavar="NAME=VALUE", help="The setting and its new value, such as lr=0.01 or without=3,7.")
]


def set(run: _options.Run, to: _Change) -> int:
    """Change a setting of a run while it goes on, from one commit on in all of its functions: `lr`, the learning rate, or
    `without`, the clients whose updates are left out."""
    from lambdaml.log.controls import parse_change
    from lambdaml.run import Run

    what, equals, text = to.partition("=")
    if not equals:
        raise UserError(f"{to!r} is no change: write, for instance, lr=0.01")
    Run(run).change(what, parse_change(what, text))
    print(f"{what} becomes {text or 'nobody'} within a few seconds; the log says from which commit on")
    return 0
