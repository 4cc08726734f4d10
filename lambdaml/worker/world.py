"""The world: everything that worker and schedule code may touch besides its own memory.

That code is plain `async` code against this one small object, so that the very same code runs live (a real store, the
real clock, torch) and under a virtual clock. It imports no `time`, `random`, `threading`, `socket` or `asyncio`; a test
pins that.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from lambdaml.events import Event
from lambdaml.storage.patience import Patience
from lambdaml.storage.protocol import Bytes, Data, ObjectInfo

T = TypeVar("T")


class Signal(Protocol):
    """A signal that conditions depend on. Setting it wakes the coroutines that wait for a condition which now holds."""

    def set(self) -> None:
        """Evaluate the conditions that are waited for, and wake the coroutines whose condition holds."""
        ...


class Task(Protocol):
    """A coroutine that runs beside the one that spawned it."""

    def cancel(self) -> object:
        """Cancel the coroutine. It need not have ended when this returns, and the result has no meaning."""
        ...


class WorldStore(Protocol):
    """The store of `lambdaml.storage.protocol` with calls that are awaited.

    Requests in flight at once overlap. Each is repeated while the store is down. What a call promises beyond its
    sentence here, and what it raises, is documented at `lambdaml.storage.protocol.Store`.

    Attributes:
        patience: The time for which requests are repeated, and whether the store was down lately.
    """

    @property
    def patience(self) -> Patience: ...

    async def get(self, key: str) -> Bytes | None:
        """Return the object's bytes, or None if there is no such object."""
        ...

    async def get_range(self, key: str, start: int, length: int) -> Bytes | None:
        """Return at most `length` bytes of an object from offset `start`, or None if there is no such object."""
        ...

    async def get_many(self, keys: Sequence[str]) -> Sequence[Bytes | None]:
        """Return each object's bytes, or None, in the order of the keys."""
        ...

    async def put(self, key: str, data: Data) -> None:
        """Write an object, and replace one that exists."""
        ...

    async def create(self, key: str, data: Data) -> Bytes | None:
        """Write the object if the key is free.

        Returns None if the object is stored because of this call, else the bytes that are stored there instead.
        """
        ...

    async def head(self, key: str) -> ObjectInfo | None:
        """Return the object's size and time without its bytes, or None if there is no such object."""
        ...

    async def list(self, prefix: str, after: str = "") -> list[ObjectInfo]:
        """Return the objects under a prefix whose keys come after `after`, in the order of their keys."""
        ...

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete objects. Keys that do not exist are no error."""
        ...

    def reading(self) -> dict[str, Any]:
        """Return the sums over this function's requests so far, in the form of `MeterReading.to_dict`."""


class World(Protocol):
    """The store, the clock, compute and randomness of a function, and the messages of its engine.

    Attributes:
        store: The run's bucket.
    """

    @property
    def store(self) -> WorldStore: ...

    def now(self) -> float:
        """Return the seconds on a clock that never goes back. They are comparable within one function only."""

    async def sleep(self, seconds: float) -> None:
        """Wait for this many seconds, while other coroutines run."""
        ...

    def signal(self) -> Signal:
        """Return a new signal, for which nothing waits yet."""
        ...

    async def until(self, signal: Signal, condition: Callable[[], bool], timeout_s: float | None = None) -> bool:
        """Wait until the condition holds or the time is over, and return whether it holds.

        The condition is evaluated now, and whenever the signal is set, by whoever sets it. It must be quick and look at
        memory only.
        """

    def spawn(self, work: Coroutine[Any, Any, None]) -> Task:
        """Start a coroutine that runs beside the caller, and return it as a task that can be cancelled."""
        ...

    async def gather(self, *work: Coroutine[Any, Any, T]) -> list[T]:
        """Run all at once, and return the results in order. If one raises an exception, so does this."""

    async def compute(self, work: Callable[[], T]) -> T:
        """Run tensor work, one piece at a time in the order of the calls, without stopping everything else."""

    async def background(self, work: Callable[[], T]) -> T:
        """Run work that touches no shared tensors, beside everything else."""

    def uniform(self, low: float, high: float) -> float:
        """Return a random number from this function's own seeded stream, for jitter."""

    def remaining_s(self) -> float:
        """Return the seconds until the engine ends this function, or infinity if the engine sets no limit."""

    def leaving(self) -> bool:
        """Return whether the engine asked this function to leave (preemption notice, Ctrl-C)."""

    def vacant(self) -> Mapping[int, str]:
        """Return the workers that no function works as and that the engine wants this function to take over.

        Each comes with the name of the function that died as this worker, or "".
        """

    def said(self) -> list[dict[str, Any]]:
        """Return what the user's code has printed and logged since the last call, as rows of the trace."""

    def emit(self, event: Event) -> None:
        """Send an event to those that watch. It never blocks, and nothing depends on it."""
