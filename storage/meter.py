"""The meter, which counts requests by kind, their bytes and their times, as bills and plans need them.

Times go into histograms with eight bins to the octave, so readings of many processes can be added, and a percentile
is accurate to 4.5 %.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from lambdaml.storage.backend import Backend, Layer, Op
from lambdaml.storage.errors import StoreError
from lambdaml.storage.ledger import KINDS, RANGE_MISS, Ledger, in_flight
from lambdaml.storage.protocol import Bytes

T = TypeVar("T")

BINS_PER_OCTAVE = 8
_FINEST_S = 1e-7


def bin_s(number: float) -> float:
    """Return the seconds at which bin `number` of a latency histogram begins; `number` + 0.5 gives its middle."""
    return _FINEST_S * 2 ** (number / BINS_PER_OCTAVE)


def bin_number(seconds: float) -> int:
    """Return the bin of a latency histogram that so many seconds fall into. The first bin also has all shorter times."""
    return int(math.log2(max(seconds, _FINEST_S) / _FINEST_S) * BINS_PER_OCTAVE)


@dataclass(frozen=True, slots=True)
class MeterReading:
    """The counts up to a moment. Readings can be added (`+`), and earlier ones subtracted (`-`).

    Attributes:
        requests: The answered requests by kind: `get` and `get_range` (found), `get_miss` (either of them, without such
            a key), `head`, `put`, `create` (written), `create_lost` (the key existed), `list` (one per page), `delete`
            (one per 1,000 keys). The read-back that settles a create is a `get`, as on the bill. Where one request reads
            several objects, each counts, with the time of the whole request. `wait` counts where it is a request
            (`ray://`).
        errors: The requests that failed, by `kind/ErrorName`, for example `put/Throttled`. They are not part of
            `requests`. The store decides whether it bills them (S3 bills no 5xx, but does bill a lost answer).
        bytes_sent: The bytes in the bodies of puts and creates, including lost and failed ones.
        bytes_received: The bytes in the objects that were read.
        latency: The number of answered requests by kind and histogram bin; read it with `percentile_s`. Waits are
            not in it.
    """

    requests: Mapping[str, int] = field(default_factory=dict)
    errors: Mapping[str, int] = field(default_factory=dict)
    bytes_sent: int = 0
    bytes_received: int = 0
    latency: Mapping[str, Mapping[int, int]] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """The number of requests sent, including failed ones."""
        return sum(self.requests.values()) + sum(self.errors.values())

    def percentile_s(self, kind: str, q: float) -> float:
        """Return the seconds within which the share `q` (0..1) of a kind's answered requests ended, or nan if none."""
        bins = self.latency.get(kind, {})
        wanted = q * sum(bins.values())
        seen = 0
        for number in sorted(bins):
            seen += bins[number]
            if seen >= wanted:
                return bin_s(number + 0.5)
        return math.nan

    def __add__(self, other: MeterReading) -> MeterReading:
        return self._combined(other, 1)

    def __sub__(self, other: MeterReading) -> MeterReading:
        return self._combined(other, -1)

    def _combined(self, other: MeterReading, sign: int) -> MeterReading:
        kinds = {*self.latency, *other.latency}
        latency = {kind: _sum(self.latency.get(kind, {}), other.latency.get(kind, {}), sign) for kind in kinds}
        return MeterReading(
            _sum(self.requests, other.requests, sign),
            _sum(self.errors, other.errors, sign),
            self.bytes_sent + sign * other.bytes_sent,
            self.bytes_received + sign * other.bytes_received,
            {kind: bins for kind, bins in latency.items() if bins},
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts with string keys for JSON."""
        return {
            "requests": dict(self.requests),
            "errors": dict(self.errors),
            "bytes_sent": self.bytes_sent,
            "bytes_received": self.bytes_received,
            "latency": {kind: {str(b): n for b, n in bins.items()} for kind, bins in self.latency.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MeterReading:
        """Return the reading that `to_dict` wrote. Raises KeyError or ValueError where `data` is not such a reading."""
        latency = {kind: {int(b): int(n) for b, n in bins.items()} for kind, bins in data["latency"].items()}
        return cls(
            {kind: int(n) for kind, n in data["requests"].items()},
            {kind: int(n) for kind, n in data["errors"].items()},
            int(data["bytes_sent"]),
            int(data["bytes_received"]),
            latency,
        )


class Meter:
    """A meter, which any number of threads may use. Read it with `snapshot`.

    Args:
        ledger: The ledger that keeps the counts. Share its memory to read them in another process with `read_ledger`.
    """

    def __init__(self, ledger: Ledger | None = None) -> None:
        self._lock = threading.Lock()
        self._ledger = ledger or Ledger()
        self._latency: defaultdict[str, Counter[int]] = defaultdict(Counter)

    def begun(self, op: Op, requests: int = 1) -> None:
        """Count requests that are about to be sent. A negative number takes some back."""
        with self._lock:
            self._ledger.count(f"begun {op}", requests)

    def answered(self, kind: str, seconds: float | None, sent_bytes: int = 0, received_bytes: int = 0) -> None:
        """Count one answered request. `seconds` is None where its duration says nothing about the store."""
        number = None if seconds is None else bin_number(seconds)
        with self._lock:
            self._ledger.count(kind)
            if number is not None:
                self._latency["get_miss" if kind == RANGE_MISS else kind][number] += 1
            if sent_bytes:
                self._ledger.count("bytes sent", sent_bytes)
            if received_bytes:
                self._ledger.count("bytes received", received_bytes)

    def failed(self, kind: str, error: str, sent_bytes: int = 0) -> None:
        """Count one request that ended in an error."""
        with self._lock:
            self._ledger.count(f"{kind}/{error}")
            self._ledger.count("bytes sent", sent_bytes)

    def snapshot(self) -> MeterReading:
        """Return a reading that later requests leave alone."""
        with self._lock:
            latency = {kind: dict(bins) for kind, bins in self._latency.items()}
            return _reading(self._ledger.read(), latency)


def read_ledger(ledger: Ledger) -> MeterReading:
    """Return what any process counted in a ledger, without times.

    Requests that have begun and not ended count as requests of their op: if the process is dead, nobody knows
    whether the store received them, and it may bill them. Their bytes are not counted.
    """
    counts = ledger.read()
    for op, number in in_flight(counts).items():
        counts[op] = counts.get(op, 0) + number
    return _reading(counts, {})


def _reading(counts: Mapping[str, int], latency: Mapping[str, Mapping[int, int]]) -> MeterReading:
    if RANGE_MISS in counts:
        counts = {**counts, "get_miss": counts.get("get_miss", 0) + counts[RANGE_MISS]}
    return MeterReading(
        {kind: counts[kind] for kind in KINDS if kind in counts},
        {name: number for name, number in counts.items() if "/" in name},
        counts.get("bytes sent", 0),
        counts.get("bytes received", 0),
        latency,
    )


class Metered(Layer):
    """A layer that counts each request to its backend in `meter`."""

    def __init__(self, inner: Backend, meter: Meter | None = None) -> None:
        super().__init__(inner)
        self.meter = meter or Meter()
        self.one_call = inner.one_call

    def get_many(self, keys: Sequence[str]) -> Sequence[Bytes | None]:
        if not self.one_call or not keys:
            return super().get_many(keys)
        begin = time.perf_counter()
        self.meter.begun("get", len(keys))
        try:
            found = self.inner.get_many(keys)
        except StoreError as error:
            self.meter.begun("get", 1 - len(keys))
            self.meter.failed("get", type(error).__name__)
            raise
        seconds = time.perf_counter() - begin
        for data in found:
            self.meter.answered("get_miss" if data is None else "get", seconds, 0, len(data or b""))
        return found

    def wait(self, key: str, timeout_s: float) -> bool:
        if not self.one_call:
            return super().wait(key, timeout_s)
        return self.around("wait", key, 0, lambda: self.inner.wait(key, timeout_s))

    def around(self, op: Op, key: str, sent_bytes: int, call: Callable[[], T]) -> T:
        begin = time.perf_counter()
        self.meter.begun(op)
        try:
            result = call()
        except StoreError as error:
            self.meter.failed(op, type(error).__name__, sent_bytes)
            raise
        except Exception:  # a mistake that was found before anything was sent
            self.meter.begun(op, -1)
            raise
        seconds = None if op == "wait" else time.perf_counter() - begin
        kind: str = op
        if op in ("get", "get_range") and result is None:
            kind = f"{op}_miss"
        elif op == "create" and result is False:
            kind = "create_lost"
        received = len(result) if isinstance(result, bytes | memoryview) else 0
        self.meter.answered(kind, seconds, sent_bytes, received)
        return result


def _sum(left: Mapping[Any, int], right: Mapping[Any, int], sign: int) -> dict[Any, int]:
    total = {name: left.get(name, 0) + sign * right.get(name, 0) for name in {**left, **right}}
    return {name: n for name, n in total.items() if n}
