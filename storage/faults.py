"""A store that fails on purpose: `?faults=slowdown:0.01,timeout:0.01,lost:0.01,slow:0.01,damage:0.01&faults_seed=1`.

It serves this project's tests and yours: wrap any store, or write faults into the URL of a run, and see whether the
result is the same. Faults follow the seed and the request, not the clock (see `lambdaml.storage.draws`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeVar, cast

from lambdaml.storage.backend import WRITES, Backend, Layer, Op
from lambdaml.storage.draws import Draws
from lambdaml.storage.errors import BadStoreURL, StoreTimeout, StoreUnavailable, Throttled
from lambdaml.storage.protocol import Bytes
from lambdaml.storage.url import StoreURL, nearest_known, parse_number

T = TypeVar("T")

FAULTS = ("slowdown", "timeout", "lost", "slow", "damage")
"""The things that can happen to a request:

- `slowdown`: The request is refused with `Throttled`, without effect.
- `timeout`: A write takes effect and then raises `StoreTimeout`; a read just raises it. No time passes.
- `lost`: The same happens with `StoreUnavailable`, as where a connection breaks.
- `slow`: The request takes ten times as long, and at least 0.2 s longer.
- `damage`: A read returns the object with one bit flipped, or cut short; what is stored stays whole. Other requests are
  spared.
"""


def parse_rates(text: str) -> dict[str, float]:
    """Parse `slowdown:0.01,lost:0.02` into a dict. Raises BadStoreURL for unknown faults and rates outside 0..1."""
    rates: dict[str, float] = {}
    for part in text.split(","):
        name, _, rate = part.partition(":")
        rates[name] = parse_number(rate, f"the rate of fault {name!r}")
    _check(rates)
    return rates


class Faulty(Layer):
    """A layer that makes requests to its backend fail at given rates: `Faulty(MemoryStore(), {"lost": 0.1}, seed=1)`.

    Raises BadStoreURL for a fault that it does not know, or for rates that are not shares of one whole.
    """

    def __init__(self, inner: Backend, rates: Mapping[str, float], seed: int = 0) -> None:
        super().__init__(inner)
        _check(rates)
        self.rates = dict(rates)
        faults = ",".join(f"{name}:{rate:g}" for name, rate in rates.items())
        self.url = str(StoreURL.parse(inner.url).adding(faults=faults, faults_seed=str(seed) if seed else None))
        self.near = False
        self._draws = Draws(seed)

    def around(self, op: Op, key: str, sent_bytes: int, call: Callable[[], T]) -> T:
        fault, where = self._draw(op, key)
        if fault == "slowdown":
            raise Throttled(f"{op} {key}: slow down (a fault on purpose)")
        if fault in ("timeout", "lost"):
            if op in WRITES:
                call()
            if fault == "timeout":
                raise StoreTimeout(f"{op} {key}: no answer in time (a fault on purpose)")
            raise StoreUnavailable(f"{op} {key}: connection lost (a fault on purpose)")
        begin = time.perf_counter()
        result = call()
        if fault == "slow":
            time.sleep(max(0.2, 9 * (time.perf_counter() - begin)))
        if fault == "damage" and isinstance(result, bytes | memoryview):
            return cast(T, corrupted(result, where))
        return result

    def _draw(self, op: Op, key: str) -> tuple[str | None, float]:
        """Return what happens to a request, and another number in (0, 1) that is independent of that."""
        unit = self._draws.unit(op, key)
        for name, rate in self.rates.items():
            if unit < rate:
                return name, unit / rate
            unit -= rate
        return None, 0.0


def corrupted(data: Bytes, where: float) -> bytes:
    """Return these bytes as a reader gets them when something goes wrong on the way.

    One in four is cut short, and the others have one bit flipped. `where` from (0, 1) decides.
    """
    found = bytearray(data)
    if where < 0.25:
        return bytes(found[: int(4 * where * len(found))])
    bit = int((where - 0.25) / 0.75 * 8 * len(found))
    if found:
        found[bit // 8] ^= 1 << bit % 8
    return bytes(found)


def _check(rates: Mapping[str, float]) -> None:
    for name, rate in rates.items():
        if name not in FAULTS:
            raise BadStoreURL(f"unknown fault {name!r}{nearest_known(name, FAULTS)}")
        if not 0 <= rate <= 1:
            raise BadStoreURL(f"the rate of fault {name!r} must lie in 0..1, not {rate:g}")
    if sum(rates.values()) > 1:
        raise BadStoreURL(f"the rates of the faults add up to {sum(rates.values()):g}, more than every request")
