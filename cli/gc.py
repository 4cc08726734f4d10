"""`lambdaml gc`"""

from __future__ import annotations

from typing import Annotated

import typer

from lambdaml.cli import _options

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def gc(run: _options.Run, yes: Yes = False) -> int:
    """Delete what the newest snapshot has made unnecessary: older snapshots, and updates that are part of it.

    The log, the metrics, the trace and the result stay. Earlier versions can no longer be replayed.
    """
    from lambdaml.log.run import Run

    found = Run(run)
    garbage = found.garbage()
    if garbage is None:
        print("nothing to delete")
        return 0
    if not yes and not typer.confirm(f"Delete {len(garbage[1]):,} objects of {found.url}?"):
        print("nothing was deleted")
        return 0
    print(f"deleted {found.gc():,} objects")
    return 0
