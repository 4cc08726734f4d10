"""The command line: one verb, one file, and no logic that the library lacks."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Be the `lambdaml` command, reproducible unless a verb or its run is not: set before NumPy or torch are loaded."""
    from lambdaml.cli._interrupt import NOTHING_DONE, at_once, from_now_on

    from_now_on("stopped")
    with at_once(NOTHING_DONE):
        from lambdaml import numerics

        numerics.prepare("reproducible")
        from lambdaml.cli._app import run
    sys.exit(run(sys.argv[1:]))
