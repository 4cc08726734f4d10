"""Keeps stdout for programs: with `--json` or `--csv` it holds a command's result alone, whatever a job prints.

Descriptor 1 becomes stderr for the whole process, including C code, child processes and what is printed at exit. The
result goes to where descriptor 1 led before.
"""

from __future__ import annotations

import os
import sys
from contextvars import ContextVar
from typing import TextIO

_RESULTS: ContextVar[TextIO] = ContextVar("results")


def keep_for_results() -> None:
    """Let nothing but results go to the present stdout from now on. This cannot be undone."""
    sys.stdout.flush()
    _RESULTS.set(os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors))
    os.dup2(2, 1)
    sys.stdout = sys.stderr


def results() -> TextIO:
    """Return the stream for a command's result. The caller flushes it."""
    return _RESULTS.get(sys.stdout)
