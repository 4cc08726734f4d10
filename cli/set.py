"""The verb `lambdaml set`."""

from __future__ import annotations

from typing import Annotated

import typer

from lambdaml.cli import _options
from lambdaml.errors import UserError

_Change = Annotated[str, typer.Argument(metavar="NAME=VALUE", help="The setting and its new value, such as lr=0.01.")]


def set(run: _options.Run, to: _Change) -> int:
    """Change a setting of a run while it goes on: the learning rate, from one commit on in all of its functions."""
    from lambdaml.run import Run

    what, _, text = to.partition("=")
    try:
        value = float(text)
    except ValueError:
        raise UserError(f"{to!r} is no change: write, for instance, lr=0.01") from None
    Run(run).change(what, value)
    print(f"{what} becomes {value:g} within a few seconds; the log says from which commit on")
    return 0
