"""The command line: one verb, one file, and no logic that the library lacks."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys

__all__ = ["main"]


def main() -> None:
    """Run the `lambdaml` command.

    The numerics are set to reproducible before NumPy and torch are loaded, unless a verb or its run changes that.
    """
    from lambdaml.cli._interrupt import NOTHING_DONE, at_once, from_now_on
    from lambdaml.cli._stdout import keep_for_results

    code = 1

    def leave() -> None:
        # Unloading torch takes half a second, in which nobody heeds Ctrl-C.
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(code)

    atexit.register(leave)  # registered first, so that it is called last
    if any(word.partition("=")[0] in ("--json", "--csv") for word in sys.argv):
        keep_for_results()
    from_now_on("stopped")
    with at_once(NOTHING_DONE):
        from lambdaml.training import numerics

        numerics.prepare("reproducible")
        from lambdaml.cli._app import run
    code = run(sys.argv[1:])
    sys.exit(code)
