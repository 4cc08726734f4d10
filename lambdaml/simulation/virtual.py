"""The virtual world: a modelled store and modelled functions on the kernel's clock.

One `Bucket` models the store; each function gets a `VirtualWorld` of its own, as a real one gets a `LiveWorld`.
Requests take drawn latencies, share their function's network, and take effect when a real one would: a write after its
transfer and half of its latency, a read half-way. Compute takes the time that it is charged for, one piece at a time.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, cast

from lambdaml.events import Emit, Event, FaultEvent, tell_outages
from lambdaml.simulation.channel import Channel, Pipe, TokenBucket
from lambdaml.simulation.kernel import Future, Group, Kernel, KernelTask, Killed, sleep
from lambdaml.simulation.regions import NEAR, Link
from lambdaml.storage.backend import WRITES, Op, flat, settle
from lambdaml.storage.errors import StoreError, StoreTimeout, StoreUnavailable, Throttled
from lambdaml.storage.faults import corrupted
from lambdaml.storage.meter import Meter
from lambdaml.storage.patience import Patience
from lambdaml.storage.protocol import Bytes, Data, ObjectInfo
from lambdaml.storage.retry import HASTY_S, retried
from lambdaml.worker.world import Signal

T = TypeVar("T")


class FaultInjector(Protocol):
    """Decides which fault each request meets; see `lambdaml.simulation.faults`."""

    def strike(self, op: Op, key: str, now: float, uniform: Callable[[], float]) -> str:
        """Return the fault that this request meets, or "" if it meets none.

        The faults are `down`, `slowdown`, `timeout`, `lost`, `slow`, `late`, `twice`, `damage` and `spoil`.
        """


class NoFaults:
    """Lets no request meet a fault."""

    def strike(self, op: Op, key: str, now: float, uniform: Callable[[], float]) -> str:
        return ""


_STANDING = ("snapshots/", "horizon/", "memory/")


@dataclass(frozen=True, slots=True)
class Deleted:
    """An object that was deleted.

    Attributes:
        key: The object's key.
        data: The object's bytes.
        standing: The keys that existed just after the deletion, of snapshots, horizons and memories.
    """

    key: str
    data: bytes
    standing: dict[str, list[str]]


class Bucket:
    """The objects of a virtual store, seen by all functions.

    Args:
        kernel: The virtual clock.
        channel: The model of the store's latencies, bandwidth and limits.
        payloads: The bytes that objects whose keys begin with these prefixes have beyond what is really stored.
        injector: Decides which faults requests meet; by default none meets any.
        range_share: The share of an object's modelled payload that lies in a range which is read.

    Attributes:
        objects: Each object's bytes and the virtual second at which it was written, by key.
        overwritten: The keys of the objects that a put replaced, in order.
        deleted: The objects that were deleted, in order.
        spoiled: The bytes that an object had before it was damaged for good, by key.
    """

    def __init__(
        self,
        kernel: Kernel,
        channel: Channel,
        payloads: dict[str, int] | None = None,
        injector: FaultInjector | None = None,
        range_share: float = 1.0,
    ) -> None:
        self.kernel = kernel
        self.range_share = range_share
        self.channel = channel
        self.injector: FaultInjector = injector or NoFaults()
        self.objects: dict[str, tuple[bytes, float]] = {}
        self.overwritten: list[str] = []
        self.deleted: list[Deleted] = []
        self.spoiled: dict[str, bytes] = {}
        self._payloads = payloads or {}
        self._sorted: list[str] = []
        limits = (channel.reads_per_s, channel.writes_per_s)
        self._reads, self._writes = (TokenBucket(rate) if rate else None for rate in limits)

    def size_bytes(self, key: str, data: Bytes | Data) -> int:
        """Return the bytes that the object has on the network, its modelled payload included."""
        return len(data) + self._payloads.get(key[: key.find("/") + 1], 0)

    def moved_bytes(self, op: Op, key: str, data: bytes) -> int:
        """Return the bytes that a read moves over the network. A range has its share of the modelled payload."""
        share = self.range_share if op == "get_range" else 1.0
        return len(data) + round(share * (self.size_bytes(key, data) - len(data)))

    def busy(self, op: Op) -> bool:
        """Count a request, and return whether the store refuses it because of too many requests."""
        tokens = self._writes if op in WRITES else self._reads
        return tokens is not None and not tokens.take(self.kernel.now)

    def get(self, key: str) -> bytes | None:
        """Return the object's bytes, or None if there is no such object."""
        found = self.objects.get(key)
        return None if found is None else found[0]

    def try_create(self, key: str, data: Data) -> bool:
        """Write the object if the key is free, and return whether it was."""
        if key in self.objects:
            return False
        self.put(key, data)
        return True

    def put(self, key: str, data: Data) -> None:
        """Write the object, and note if that replaces one."""
        if key in self.objects:
            self.overwritten.append(key)
        else:
            insort(self._sorted, key)
        self.objects[key] = (bytes(flat(data)), self.kernel.now)

    def spoil(self, key: str, where: float) -> None:
        """Damage the object for good; `where` is as in `corrupted`."""
        data, written = self.objects[key]
        self.spoiled[key] = data
        self.objects[key] = corrupted(data, where), written

    def head(self, key: str) -> ObjectInfo | None:
        """Return the object's size in bytes and the virtual second of its writing, or None if it does not exist."""
        found = self.objects.get(key)
        return None if found is None else ObjectInfo(key, self.size_bytes(key, found[0]), found[1])

    def list(self, prefix: str, after: str = "") -> list[ObjectInfo]:
        """Return the objects whose key begins with `prefix` and is greater than `after`, in the order of their keys."""
        start = bisect_right(self._sorted, max(after, prefix)) if after >= prefix else 0
        found = []
        for key in self._sorted[start or bisect_right(self._sorted, prefix) :]:
            if not key.startswith(prefix):
                break
            info = self.head(key)
            assert info is not None
            found.append(info)
        return found

    def delete(self, key: str) -> None:
        """Delete an object, as a lifecycle rule does. `deleted` remembers it and the keys that existed then."""
        found = self.objects.pop(key, None)
        if found is not None:
            self._sorted.remove(key)
            standing = {prefix: [info.key for info in self.list(prefix)] for prefix in _STANDING}
            self.deleted.append(Deleted(key, found[0], standing))


class VirtualStore:
    """One function's connection to a bucket. It is the `WorldStore` of the virtual world."""

    def __init__(self, bucket: Bucket, world: VirtualWorld, bytes_per_s: float, link: Link, patience: Patience) -> None:
        self.meter = Meter()
        self.patience = patience
        self._bucket = bucket
        self._world = world
        self._link = link
        self._up, self._down = Pipe(bytes_per_s / link.times), Pipe(bytes_per_s / link.times)
        self._connection_bytes_per_s = link.connection_bytes_per_s(bucket.channel.bandwidth_bytes_per_s)

    def reading(self) -> dict[str, Any]:
        return self.meter.snapshot().to_dict()

    async def get(self, key: str) -> Bytes | None:
        return await self._retried(lambda: self._get(key))

    async def get_range(self, key: str, start: int, length: int) -> Bytes | None:
        def part() -> bytes | None:
            data = self._bucket.get(key)
            return None if data is None else data[start : start + length]

        return await self._retried(lambda: self._request("get_range", key, 0, part))

    async def get_many(self, keys: Sequence[str]) -> Sequence[Bytes | None]:
        return await self._world.gather(*[self.get(key) for key in keys])

    async def put(self, key: str, data: Data) -> None:
        size = self._bucket.size_bytes(key, data)
        await self._retried(lambda: self._request("put", key, size, lambda: self._bucket.put(key, data)))

    async def create(self, key: str, data: Data) -> Bytes | None:
        return await self._retried(lambda: settle(key, data, self._create, self._get))

    async def head(self, key: str) -> ObjectInfo | None:
        return await self._retried(lambda: self._request("head", key, 0, lambda: self._bucket.head(key)))

    async def list(self, prefix: str, after: str = "") -> list[ObjectInfo]:
        return await self._retried(lambda: self._request("list", prefix, 0, lambda: self._bucket.list(prefix, after)))

    async def delete(self, keys: Sequence[str]) -> None:
        def effect() -> None:
            for key in keys:
                self._bucket.delete(key)

        await self._retried(lambda: self._request("delete", keys[0], 0, effect))

    # These return the coroutines that they make, rather than wait for them in one of their own: every turn of a request
    # passes through all coroutines that wait for it.

    def _retried(self, call: Callable[[], Coroutine[Any, Any, T]]) -> Coroutine[Any, Any, T]:
        world, now = self._world, self._now
        return self.patience.keep(lambda: retried(call, now, world.sleep, world.uniform, within_s=HASTY_S), world.sleep)

    def _now(self) -> float:
        return self._world.kernel.now

    def _get(self, key: str) -> Coroutine[Any, Any, Bytes | None]:
        return self._request("get", key, 0, lambda: self._bucket.get(key))

    def _create(self, key: str, data: Data) -> Coroutine[Any, Any, bool]:
        size = self._bucket.size_bytes(key, data)
        return self._request("create", key, size, lambda: self._bucket.try_create(key, data))

    async def _request(self, op: Op, key: str, sent: int, effect: Callable[[], T]) -> T:
        """Make one request: it travels to the store, takes effect, and its answer travels back."""
        world, bucket, began = self._world, self._bucket, self._world.kernel.now
        channel, uniform = bucket.channel, world.group.random.random
        fault = bucket.injector.strike(op, key, began, uniform)
        latency_s = self._link.latency_s(channel.latency_s(op, uniform()))
        if fault:
            world.emit(FaultEvent(fault=fault, op=op, key=key, function=world.group.name))
        if fault == "slow":
            latency_s = max(10 * latency_s, latency_s + 0.2)
        up_s = self._up.finish(began, sent, self._connection_bytes_per_s) - began if sent else 0.0
        await world.sleep(up_s + latency_s / 2)
        try:
            if fault == "down":
                raise StoreUnavailable(f"{op} {key}: connection failed")
            if fault == "slowdown" or bucket.busy(op):
                await world.sleep(latency_s / 2)
                raise Throttled(f"{op} {key}: slow down")
            if fault == "late":  # it takes effect long after everyone has given it up
                delay_s = 60.0 * uniform()
                world.kernel.at(world.kernel.now + delay_s, lambda: _ignore(effect()))
                raise StoreTimeout(f"{op} {key}: no answer in time")
            result = effect()
            if fault == "spoil" and result is True:
                bucket.spoil(key, uniform())
            if fault == "twice":
                world.kernel.at(world.kernel.now + 5.0 * uniform(), lambda: _ignore(effect()))
            if fault in ("timeout", "lost"):
                await world.sleep(latency_s / 2)
                raise (StoreTimeout if fault == "timeout" else StoreUnavailable)(f"{op} {key}: the answer was lost")
        except StoreError as error:
            self.meter.failed(op, type(error).__name__, sent)
            raise
        received = bucket.moved_bytes(op, key, result) if isinstance(result, bytes) else 0
        if fault == "damage" and isinstance(result, bytes):
            result = cast(T, corrupted(result, uniform()))
        arrives = world.kernel.now + latency_s / 2
        if received:
            arrives = self._down.finish(arrives, received, self._connection_bytes_per_s)
        await world.sleep(arrives - world.kernel.now)
        kind = "get_miss" if op in ("get", "get_range") and result is None else "create_lost" if result is False else op
        self.meter.answered(kind, world.kernel.now - began, sent, received)
        return result


class VirtualSignal:
    """Wakes the coroutines whose condition holds. It is the `Signal` of the virtual world."""

    __slots__ = ("waiters",)

    def __init__(self) -> None:
        self.waiters: dict[Future[None], Callable[[], bool]] = {}

    def set(self) -> None:
        for waiter, condition in list(self.waiters.items()):
            if not waiter.done and condition():
                waiter.set()


class VirtualWorld:
    """One function's world, on the kernel's clock.

    Args:
        group: Runs the function's tasks; its random stream is the function's.
        bucket: The run's store.
        bytes_per_s: The bandwidth of the function's network, each way.
        link: The link between the function and the bucket.
        slowness: Is called for each piece of compute, and returns the factor by which the charged time grows.
        lifetime_s: The seconds from now until the engine ends this function.
        patience_s: The seconds for which a request waits for a store that is down.
        skew_s: The seconds that its clock is ahead of the kernel's.
        drift: The seconds that its clock gains in each second.
        emit: Is called with each event.

    Attributes:
        busy_s: The seconds of compute so far.
        overtaken: Whether the function met what the run's horizon had passed, so that it must begin anew.
    """

    def __init__(
        self,
        group: Group,
        bucket: Bucket,
        *,
        bytes_per_s: float = float("inf"),
        link: Link = NEAR,
        slowness: Callable[[], float] = lambda: 1.0,
        lifetime_s: float = float("inf"),
        patience_s: float = 0.0,
        skew_s: float = 0.0,
        drift: float = 0.0,
        emit: Emit = lambda event: None,
    ) -> None:
        self.group = group
        self.overtaken = False
        self.kernel = group.kernel
        patience = Patience(patience_s, self.now, self.uniform, tell_outages(self.emit), self.leaving)
        self.store = VirtualStore(bucket, self, bytes_per_s, link, patience)
        self.busy_s = 0.0
        self._told_to_leave = False
        self._end = self.kernel.now + lifetime_s
        self._slowness = slowness
        self._skew_s, self._rate = skew_s, 1.0 + drift
        self._emit = emit
        self._core: Future[None] | None = None
        self._charged_s = 0.0

    def now(self) -> float:
        return (self.kernel.now + self._charged_s) * self._rate + self._skew_s

    async def sleep(self, seconds: float) -> None:
        if self.group.dead:
            raise Killed
        await sleep(seconds)

    def signal(self) -> VirtualSignal:
        return VirtualSignal()

    async def until(self, signal: Signal, condition: Callable[[], bool], timeout_s: float | None = None) -> bool:
        assert isinstance(signal, VirtualSignal)
        kernel = self.kernel
        end = None if timeout_s is None else kernel.now + timeout_s
        while not condition():
            if self.group.dead:
                raise Killed
            if end is not None and kernel.now >= end:
                return False
            waiter: Future[None] = Future(kernel)
            signal.waiters[waiter] = condition
            if end is not None:
                kernel.at(end, waiter.set)
            try:
                await waiter.wait()
            finally:
                del signal.waiters[waiter]
        return True

    def spawn(self, work: Coroutine[Any, Any, None]) -> KernelTask:
        if self.group.dead:
            work.close()
            raise Killed
        return self.group.spawn(work)

    async def gather(self, *work: Coroutine[Any, Any, T]) -> list[T]:
        if self.group.dead:
            for one in work:
                one.close()
            raise Killed
        if len(work) == 1:
            return [await work[0]]
        return await self.kernel.gather(self.group, work)

    async def compute(self, work: Callable[[], T]) -> T:
        before, mine = self._core, Future[None](self.kernel)
        self._core = mine
        try:
            if before is not None and not before.done:
                await before.wait()
            if self.group.dead:
                raise Killed
            try:
                result = work()
            finally:
                seconds, self._charged_s = self._charged_s, 0.0
            if seconds:
                self.busy_s += seconds
                await sleep(seconds)
            return result
        finally:
            mine.set()

    async def background(self, work: Callable[[], T]) -> T:
        if self.group.dead:
            raise Killed
        result = work()
        seconds, self._charged_s = self._charged_s, 0.0
        if seconds:
            await sleep(seconds)
        return result

    def charge(self, seconds: float) -> None:
        """Charge the work that is being computed for this many seconds at nominal speed."""
        self._charged_s += seconds * self._slowness()

    def uniform(self, low: float, high: float) -> float:
        return self.group.random.uniform(low, high)

    def remaining_s(self) -> float:
        return self._end - self.kernel.now

    def leaving(self) -> bool:
        return self._told_to_leave

    def vacant(self) -> Mapping[int, str]:
        return {}

    def ask_to_leave(self) -> None:
        """Ask the function to leave, as an engine does before it ends one."""
        self._told_to_leave = True

    def said(self) -> list[dict[str, Any]]:
        return []

    def emit(self, event: Event) -> None:
        if not self.group.dead:
            name = self.group.name
            self.overtaken |= event.event == "overtaken"
            self._emit(event if event.function == name else replace(event, function=name))


def _ignore(_: object) -> None:
    return None
