"""Stdout for programs: with `--json` or `--csv` a command's result is alone there, whatever a job prints.

Descriptor 1 becomes stderr for the whole process, so for C code, child processes and what is printed at exit, too. The
result goes to where it led before.
"""

from __future__ import annotations

import os
import sys
from contextvars import ContextVar
from typing import TextIO

_RESULTS: ContextVar[TextIO] = ContextVar("results")


def keep_for_results() -> None:
    """From now on, for good, nothing but results goes to what is stdout now."""
    sys.stdout.flush()
    _RESULTS.set(os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors))
    os.dup2(2, 1)
    sys.stdout = sys.stderr


def results() -> TextIO:
    """Where a command's result goes. To be flushed."""
    return _RESULTS.get(sys.stdout)
