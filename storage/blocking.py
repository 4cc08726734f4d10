"""Code shared by blocking and awaited stores, written as a coroutine that `run_now` runs for blocking stores."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def blocking(call: Callable[..., T]) -> Callable[..., Awaitable[T]]:
    """Wrap a blocking call so that a coroutine can await it."""

    async def awaited(*args: Any) -> T:
        return call(*args)

    return awaited


def run_now(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine whose calls all block, so that it ends without an event loop, and return its result."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise AssertionError("it waits for something that does not block")
