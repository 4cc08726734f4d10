"""Ctrl-C: the first one stops in good order, the second at once."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from lambdaml.cli._errors import INTERRUPTED


@contextmanager
def interruptible(on_first: Callable[[], None]) -> Iterator[None]:
    """Within it, the first SIGINT calls `on_first` and raises KeyboardInterrupt; the second ends this process.

    The functions of a process that ended so leave by themselves.
    """

    def first(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, second)
        on_first()
        raise KeyboardInterrupt

    def second(_number: int, _frame: FrameType | None) -> None:
        if sys.stderr.isatty():
            show_cursor = b"\x1b[?25h"
            os.write(2, show_cursor)
        os._exit(INTERRUPTED)

    before = signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
