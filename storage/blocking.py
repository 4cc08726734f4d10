"""One text for blocking and awaited stores: it is written as a coroutine, and `run_now` runs it for those that block."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def blocking(call: Callable[..., T]) -> Callable[..., Awaitable[T]]:
    """A call that blocks, in the form in which coroutines take it."""

    async def awaited(*args: Any) -> T:
        return call(*args)

    return awaited


def run_now(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine whose calls all block, so that it ends without an event loop."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise AssertionError("it waits for something that does not block")
