"""The live world: a real store, the real clock, torch in a thread of its own.

The store's calls block, so each runs in a pool of threads and requests overlap. Tensor work runs in a single thread,
one piece at a time: gradients are reproducible because nothing else touches torch's random stream meanwhile.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, TypeVar

from lambdaml.storage import Store
from lambdaml.storage.protocol import Bytes, Data, ObjectInfo
from lambdaml.worlds import Signal

T = TypeVar("T")
Emit = Callable[[dict[str, Any]], None]

REQUESTS = 64
"""Requests of one function that may be in flight at once."""


class LiveSignal:
    """Wakes the coroutines whose condition holds."""

    def __init__(self) -> None:
        self.waiters: dict[asyncio.Future[None], Callable[[], bool]] = {}

    def set(self) -> None:
        for waiter, condition in list(self.waiters.items()):
            if not waiter.done() and condition():
                waiter.set_result(None)


class LiveStore:
    """A store whose calls are awaited."""

    def __init__(self, store: Store, threads: Executor) -> None:
        self._store = store
        self._threads = threads

    async def _call(self, function: Callable[..., T], *args: Any) -> T:
        if not self._store.blocking:
            return function(*args)
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)

    async def get(self, key: str) -> Bytes | None:
        return await self._call(self._store.get, key)

    async def get_many(self, keys: Sequence[str]) -> Sequence[Bytes | None]:
        return await asyncio.gather(*[self.get(key) for key in keys])

    async def put(self, key: str, data: Data) -> None:
        await self._call(self._store.put, key, data)

    async def create(self, key: str, data: Data) -> Bytes | None:
        return await self._call(self._store.create, key, data)

    async def head(self, key: str) -> ObjectInfo | None:
        return await self._call(self._store.head, key)

    async def list(self, prefix: str, after: str = "") -> list[ObjectInfo]:
        return await self._call(lambda: list(self._store.list(prefix, after)))

    def reading(self) -> dict[str, Any]:
        meter = getattr(self._store, "meter", None)
        return meter.snapshot().to_dict() if meter is not None else {}


class LiveWorld:
    """One function's world.

    Args:
        store: opened in this process, after any fork.
        compute: runs tensor work; a single thread. Functions that share a process share it.
        seed: of the jitter.
        emit: takes progress events; called from the event loop.
        lifetime_s: after how many seconds from now the engine will end this function.
        leaving: becomes true when the engine wants this function to leave.
    """

    def __init__(
        self,
        store: Store,
        compute: Executor,
        *,
        seed: int = 0,
        emit: Emit = lambda event: None,
        lifetime_s: float = float("inf"),
        leaving: Callable[[], bool] = lambda: False,
    ) -> None:
        self._threads = ThreadPoolExecutor(REQUESTS, thread_name_prefix="store")
        self.store = LiveStore(store, self._threads)
        self._compute = compute
        self._random = random.Random(seed)
        self._emit = emit
        self._end = time.monotonic() + lifetime_s
        self._leaving = leaving

    def now(self) -> float:
        return time.perf_counter()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def signal(self) -> LiveSignal:
        return LiveSignal()

    async def until(self, signal: Signal, condition: Callable[[], bool], timeout_s: float | None = None) -> bool:
        assert isinstance(signal, LiveSignal)
        loop = asyncio.get_running_loop()
        end = None if timeout_s is None else loop.time() + timeout_s
        while not condition():
            if end is not None and loop.time() >= end:
                return False
            waiter: asyncio.Future[None] = loop.create_future()
            signal.waiters[waiter] = condition
            alarm = loop.call_at(end, _wake, waiter) if end is not None else None
            try:
                await waiter
            finally:
                del signal.waiters[waiter]
                if alarm is not None:
                    alarm.cancel()
        return True

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(work)

    async def gather(self, *work: Awaitable[T]) -> list[T]:
        return list(await asyncio.gather(*work))

    async def compute(self, work: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[T] = loop.create_future()

        def run() -> None:
            try:
                result = work()
            except BaseException as error:
                loop.call_soon_threadsafe(_settle, outcome, None, error)
            else:
                loop.call_soon_threadsafe(_settle, outcome, result, None)

        self._compute.submit(run)
        return await outcome

    async def background(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def uniform(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)

    def remaining_s(self) -> float:
        return self._end - time.monotonic()

    def leaving(self) -> bool:
        return self._leaving()

    def emit(self, event: str, **fields: Any) -> None:
        self._emit({"event": event, **fields})

    def close(self) -> None:
        """Wait for requests in flight and end the threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)


def one_thread() -> Executor:
    """A compute thread: torch uses exactly one thread in it, so that results do not depend on the machine's cores."""

    def initialise() -> None:
        import torch

        torch.set_num_threads(1)

    return ThreadPoolExecutor(1, thread_name_prefix="compute", initializer=initialise)


def _settle(outcome: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if outcome.done():
        return
    if error is not None:
        outcome.set_exception(error)
    else:
        outcome.set_result(result)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
