"""Processes that compute a study's units of work, each with one thread of torch."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from lambdaml.engines.processes import fresh_processes

if TYPE_CHECKING:
    from collections.abc import Callable


@contextmanager
def one_thread() -> Iterator[None]:
    """Make torch compute with one thread within the block: in products this small, more wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def open_pool(processes: int) -> Iterator[Executor | None]:
    """Yield processes that end with the block, however it ends, or None if this process is the only one."""
    if processes == 1:
        with one_thread():
            yield None
        return
    with fresh_processes(processes, _begin) as pool:
        yield pool


def submit(pool: Executor | None, compute: Callable[[Any], Any], unit: Any) -> Future[Any]:
    """Compute a unit of work in a process, or at once in this one if there is no pool."""
    if pool is not None:
        return pool.submit(compute, unit)
    future: Future[Any] = Future()
    future.set_result(compute(unit))
    return future


def _begin() -> None:
    torch.set_num_threads(1)
