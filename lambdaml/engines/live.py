"""The live world has a real store and the real clock, and runs torch in one thread at a time.

If a store is far, its calls run in a pool of threads, so that requests overlap, and tensor work runs in a thread of its
own, so that it stops nothing else. If it is near, both are done at once unless they are large, since handing them to a
thread takes longer (it costs a step of 10 ms about a fifth of its time). Tensor work runs one piece at a time:
gradients are reproducible because nothing else touches torch's random stream meanwhile.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, TypeVar

from lambdaml.events import Emit, Event, tell_outages
from lambdaml.storage import Store
from lambdaml.storage.patience import Patience, hasten
from lambdaml.storage.protocol import Bytes, Data, ObjectInfo
from lambdaml.training.one_thread import OneThread
from lambdaml.training.output import Output
from lambdaml.worker.world import Signal

T = TypeVar("T")

_REQUESTS = 64
"""One function may have this many requests in flight at once."""

_SMALL_BYTES = 2**20
"""A write of more bytes than this to a near store goes to a thread."""

SHORT_S = 0.1
"""Tensor work also goes to a thread unless it lately took less than this, since leases must be renewed meanwhile."""


class LiveSignal:
    """Wakes the coroutines whose condition holds."""

    def __init__(self) -> None:
        self.waiters: dict[asyncio.Future[None], Callable[[], bool]] = {}

    def set(self) -> None:
        for waiter, condition in list(self.waiters.items()):
            if not waiter.done() and condition():
                waiter.set_result(None)


class LiveStore:
    """Wraps a store so that its calls can be awaited, and are repeated while the store is down."""

    def __init__(self, store: Store, threads: Executor, patience: Patience) -> None:
        hasten(store)
        self.patience = patience
        self._store = store
        self._threads = threads

    async def _call(self, function: Callable[..., T], *args: Any) -> T:
        return await self.patience.keep(lambda: self._once(function, *args), asyncio.sleep)

    async def _once(self, function: Callable[..., T], *args: Any) -> T:
        if self._store.near and all(len(arg) <= _SMALL_BYTES for arg in args):
            return function(*args)
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)

    async def get(self, key: str) -> Bytes | None:
        return await self._call(self._store.get, key)

    async def get_range(self, key: str, start: int, length: int) -> Bytes | None:
        return await self._call(lambda *_: self._store.get_range(key, start, length), key)

    async def get_many(self, keys: Sequence[str]) -> Sequence[Bytes | None]:
        return await asyncio.gather(*[self.get(key) for key in keys])

    async def put(self, key: str, data: Data) -> None:
        await self._call(self._store.put, key, data)

    async def create(self, key: str, data: Data) -> Bytes | None:
        return await self._call(self._store.create, key, data)

    async def head(self, key: str) -> ObjectInfo | None:
        return await self._call(self._store.head, key)

    async def list(self, prefix: str, after: str = "") -> list[ObjectInfo]:
        return list(await self._call(lambda *args: list(self._store.list(*args)), prefix, after))

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete objects, always in a thread, since there may be many."""
        run = asyncio.get_running_loop().run_in_executor
        await self.patience.keep(lambda: run(self._threads, self._store.delete, keys), asyncio.sleep)

    def reading(self) -> dict[str, Any]:
        meter = getattr(self._store, "meter", None)
        return meter.snapshot().to_dict() if meter is not None else {}


class LiveWorld:
    """Implements the `World` of one function with the real store and clock.

    Args:
        store: The store, which was opened in this process, after any fork.
        compute: The thread that runs tensor work; see `OneThread`. Functions that share a process share it.
        output: The collector of what the user's code prints and logs.
        seed: The seed of the jitter.
        emit: A callable that takes progress events. It is called from the event loop.
        lifetime_s: The time from now until the engine ends this function, in seconds.
        patience_s: How long a request waits for a store that is down, in seconds.
        leaving: A callable that returns true once the engine wants this function to leave.
        vacant: A callable that returns the workers that this function should be a backup for; see `World.vacant`.
    """

    def __init__(
        self,
        store: Store,
        compute: OneThread,
        output: Output,
        *,
        seed: int = 0,
        emit: Emit = lambda event: None,
        lifetime_s: float = float("inf"),
        patience_s: float = 0.0,
        leaving: Callable[[], bool] = lambda: False,
        vacant: Callable[[], Mapping[int, str]] = dict,
    ) -> None:
        self._threads = ThreadPoolExecutor(_REQUESTS, thread_name_prefix="store")
        self.store = LiveStore(
            store, self._threads, Patience(patience_s, self.now, self.uniform, tell_outages(emit), leaving)
        )
        self._compute = compute
        self._near = store.near
        self._queued = 0
        self._work_s = math.inf
        self._random = random.Random(seed)
        self._emit = emit
        self._end = time.monotonic() + lifetime_s
        self._leaving = leaving
        self._vacant = vacant
        self._output = output

    def now(self) -> float:
        return self._output.now()

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

    async def gather(self, *work: Coroutine[Any, Any, T]) -> list[T]:
        return list(await asyncio.gather(*work))

    async def compute(self, work: Callable[[], T]) -> T:
        if self._near and not self._queued and self._work_s < SHORT_S:
            with self._compute.here() as mine:
                if mine:
                    return self._timed(work)
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[T] = loop.create_future()

        def run() -> None:
            try:
                result = self._timed(work)
            except BaseException as error:
                loop.call_soon_threadsafe(_settle, outcome, None, error)
            else:
                loop.call_soon_threadsafe(_settle, outcome, result, None)

        self._queued += 1
        self._compute.submit(run)
        try:
            return await outcome
        finally:
            self._queued -= 1

    def _timed(self, work: Callable[[], T]) -> T:
        start = time.perf_counter()
        try:
            with self._output.listening():
                return work()
        finally:
            took_s = time.perf_counter() - start
            self._work_s = took_s if self._work_s == math.inf else max(took_s, 0.8 * self._work_s)

    async def background(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def uniform(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)

    def remaining_s(self) -> float:
        return self._end - time.monotonic()

    def leaving(self) -> bool:
        return self._leaving()

    def vacant(self) -> Mapping[int, str]:
        return self._vacant()

    def said(self) -> list[dict[str, Any]]:
        return self._output.take()

    def emit(self, event: Event) -> None:
        self._emit(event)

    def close(self) -> None:
        """Wait for requests in flight, and end the threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)


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
