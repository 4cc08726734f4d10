"""One thread does all tensor work of a process, so that results do not depend on the number of cores."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


class OneThread(ThreadPoolExecutor):
    """Runs tensor work of this process, one piece at a time. Torch uses exactly one thread for it, so that results do
    not depend on the machine's cores. Work that another thread does at once, in `here`, takes a turn, too.

    A turn is not a lock: it guards no data, and only this thread ever waits for it and holds nothing meanwhile. So the
    user's code that runs in a turn may wait for whatever it likes.

    Args:
        shared: Whether other threads may do work, too. An object that the user's code makes in one thread, such as a
            connection to SQLite, may not work in another.
    """

    def __init__(self, shared: bool = True) -> None:
        super().__init__(1, thread_name_prefix="compute", initializer=_use_one_core)
        self._shared = shared
        self._turn = threading.Semaphore()
        self._abandoned = False

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Queue a call for the thread, which takes the turn for it, and return the future of its result."""

        def alone() -> T:
            self._turn.acquire()
            try:
                return fn(*args, **kwargs)
            finally:
                self._turn.release()

        return super().submit(alone)

    @contextmanager
    def here(self) -> Iterator[bool]:
        """Try to give the turn to the calling thread for the block; it yields whether that thread may work."""
        mine = self._shared and self._turn.acquire(blocking=False)
        try:
            if mine:
                with _one_core():
                    yield True
            else:
                yield False
        finally:
            if mine:
                self._turn.release()

    def abandon(self) -> None:
        """Begin no more submitted work, and let `shutdown` not wait for work that has begun."""
        self._abandoned = True
        self.shutdown(wait=False, cancel_futures=True)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more work, and wait for submitted work, unless `wait` is false or the work was abandoned."""
        super().shutdown(wait and not self._abandoned, cancel_futures=cancel_futures)


@contextmanager
def _one_core() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _use_one_core() -> None:
    import torch

    torch.set_num_threads(1)
