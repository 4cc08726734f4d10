"""The command line: one verb, one file, and no logic that the library lacks."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Be the `lambdaml` command."""
    from lambdaml.cli._app import run

    sys.exit(run(sys.argv[1:]))
