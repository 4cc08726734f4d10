"""The verb `lambdaml gc`."""

from __future__ import annotations

from typing import Annotated

import typer

from lambdaml.cli import _options

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Delete without asking first.")]


def gc(run: _options.Run, yes: Yes = False) -> int:
    """Delete what the newest snapshot has made unnecessary: older snapshots, and updates that it includes.

    The log, the metrics, the trace and the result stay, but earlier versions can no longer be replayed.
    """
    from lambdaml.log.gc import garbage
    from lambdaml.log.gc import gc as delete
    from lambdaml.log.reader import RunReader

    found = RunReader(run)
    doomed = garbage(found)
    if doomed is None:
        print("nothing to delete")
        return 0
    if not yes and not typer.confirm(f"Delete {len(doomed[1]):,} objects of {found.url}?"):
        print("nothing was deleted")
        return 0
    print(f"deleted {delete(found):,} objects")
    return 0
