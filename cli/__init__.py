"""The command line: one verb, one file, and no logic that the library lacks."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys

__all__ = ["main"]


def main() -> None:
    """Be the `lambdaml` command, reproducible unless a verb or its run is not: set before NumPy or torch are loaded."""
    from lambdaml.cli._interrupt import NOTHING_DONE, at_once, from_now_on
    from lambdaml.cli._stdout import keep_for_results

    code = 1

    def leave() -> None:
        # Taking torch apart takes half a second, in which nobody heeds Ctrl-C.
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(code)

    atexit.register(leave)  # first, so that it is the last to be called
    if any(word.partition("=")[0] in ("--json", "--csv") for word in sys.argv):
        keep_for_results()
    from_now_on("stopped")
    with at_once(NOTHING_DONE):
        from lambdaml.training import numerics

        numerics.prepare("reproducible")
        from lambdaml.cli._app import run
    code = run(sys.argv[1:])
    sys.exit(code)
