"""Processes that compute a study's units of work, each with one thread of torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, as_completed
from contextlib import contextmanager
from typing import TypeVar

import torch

from lambdaml.engines.processes import fresh_processes

_U = TypeVar("_U")
_V = TypeVar("_V")


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


def submit(pool: Executor | None, compute: Callable[[_U], _V], unit: _U) -> Future[_V]:
    """Compute a unit of work in a process, or at once in this one if there is no pool."""
    if pool is not None:
        return pool.submit(compute, unit)
    future: Future[_V] = Future()
    future.set_result(compute(unit))
    return future


def as_computed(pool: Executor | None, compute: Callable[[_U], _V], units: Iterable[_U]) -> Iterator[_V]:
    """Yield what is computed from each unit of work, as soon as it is there."""
    if pool is None:
        yield from map(compute, units)
        return
    for future in as_completed([pool.submit(compute, unit) for unit in units]):
        yield future.result()


def _begin() -> None:
    torch.set_num_threads(1)
