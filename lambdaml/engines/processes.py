"""Fresh processes for pure arithmetic know nothing of the caller but its `sys.path`.

By default `multiprocessing` makes a fresh process look for the standard library in the working folder first, where a
user's `queue.py` may be, and import the caller's script again, which must be guarded against that. Neither happens
here.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from types import ModuleType
from typing import Any, TypeVar

T = TypeVar("T")

_SAFE_PATH = "PYTHONSAFEPATH"


@contextmanager
def fresh_processes(count: int, begin: Callable[..., None], *args: Any) -> Iterator[ProcessPoolExecutor]:
    """Start `count` processes, which end with the block, however it ends. The caller handles Ctrl-C.

    Args:
        count: The number of processes.
        begin: A callable that each process calls first, with `args`.
        args: The arguments of `begin`.
    """
    pool = _Pool(count, get_context("spawn"), _begin, (begin, *args))
    try:
        yield pool
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


class _Pool(ProcessPoolExecutor):
    """Starts its processes when they are needed, in `submit`."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        with _unknown():
            return super().submit(fn, *args, **kwargs)


@contextmanager
def _unknown() -> Iterator[None]:
    """Hide the caller's script and working folder from processes that are started within the block."""
    script, safe = sys.modules["__main__"], os.environ.get(_SAFE_PATH)
    sys.modules["__main__"], os.environ[_SAFE_PATH] = ModuleType("__main__"), "1"
    try:
        yield
    finally:
        sys.modules["__main__"] = script
        if safe is None:
            del os.environ[_SAFE_PATH]
        else:
            os.environ[_SAFE_PATH] = safe


def _begin(begin: Callable[..., None], *args: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    begin(*args)
