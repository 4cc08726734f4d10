"""Runs a function in several processes at once, and cuts the times that it measured."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from itertools import pairwise
from multiprocessing.synchronize import Barrier
from typing import TypeVar

T = TypeVar("T")

WAIT_S = 120.0
"""The longest that a process waits for the others."""

_barrier: Barrier | None = None


def run_together(function: Callable[..., T], processes: int, *args: object) -> list[T]:
    """Return what the function returns in each of these processes, which are given their number before the arguments.

    The processes are forked from a server that has imported no more than NumPy and boto3.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["boto3", "numpy"])
    with context.Pool(processes, _share, [context.Barrier(processes)]) as pool:
        tasks = [(function, number, args) for number in range(processes)]
        found = dict(pool.imap_unordered(_call, tasks, chunksize=1))  # an error in one of them ends them all
    return [found[number] for number in range(processes)]


def wait_for_all() -> None:
    """Wait until all processes have come to this call."""
    assert _barrier is not None
    _barrier.wait(WAIT_S)


def middle(moments: Sequence[float]) -> list[float]:
    """Return the times between moments, without the first fifth of them, at least one, and without the last."""
    spent = [later - earlier for earlier, later in pairwise(moments)]
    return spent[max(1, len(spent) // 5) : -1]


def _share(barrier: Barrier) -> None:
    global _barrier
    _barrier = barrier


def _call(task: tuple[Callable[..., T], int, tuple[object, ...]]) -> tuple[int, T]:
    function, number, args = task
    return number, function(number, *args)
