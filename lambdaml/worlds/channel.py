"""What a store is like in the virtual world: latency, bandwidth, request limits and prices. No I/O and no clock.

    channel = Channel.parse("s3-standard")                      # or s3-express:bandwidth=40MB/s, or 40ms
    channel.latency_s("get", random()), channel.transfer_s(1_000_000), channel.request_usd("get")

Moments and durations are rounded to 1e-9 s, so that the last bit of a math library does not change a simulation.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Literal, Protocol

from lambdaml.errors import SettingsError, nearest
from lambdaml.storage.backend import WRITES, Op
from lambdaml.storage.errors import BadStoreURL
from lambdaml.storage.latency import PRESETS, LatencyModel, parse_model
from lambdaml.storage.meter import MeterReading, bin_s
from lambdaml.storage.url import number

Kind = Op | Literal["get_miss", "create_lost"]
"""A request as a meter counts it: a get that found nothing and a create that lost are kinds of their own."""

OPTIONS = ("bandwidth", "reads_per_s", "writes_per_s")
"""What may follow the name of a channel: `s3-standard:bandwidth=40MB/s,writes_per_s=350`."""

GB_BYTES = 2**30
"""Bytes of a GB on a bill of AWS."""

_HOUR_S = 3600.0
_MONTH_S = 730 * _HOUR_S
_OP: dict[Kind, Op] = {"get_miss": "get", "create_lost": "create"}


class Latency(Protocol):
    """A latency distribution per request kind, with the bandwidth of one connection."""

    @property
    def bandwidth_bytes_per_s(self) -> float: ...
    def latency_s(self, op: Op, unit: float) -> float: ...


@dataclass(frozen=True, slots=True)
class Empirical:
    """The latencies that a meter saw, by its histogram; within a bin they are spread evenly on the log scale.

    Kinds that it did not see are as slow as those of their direction that it saw, and those as all together.
    """

    bins: Mapping[str, tuple[tuple[int, int], ...]]
    bandwidth_bytes_per_s: float = math.inf

    @classmethod
    def of(cls, reading: MeterReading, bandwidth_bytes_per_s: float = math.inf) -> Empirical:
        """Raises ValueError where the reading has no latency."""
        pools: dict[str, dict[int, int]] = {}
        for kind, counts in reading.latency.items():
            for pool in (kind, _direction(kind), ""):
                into = pools.setdefault(pool, {})
                for bin_number, count in counts.items():
                    into[bin_number] = into.get(bin_number, 0) + count
        if not any(pools.get("", {}).values()):
            raise ValueError("the reading has no answered request, and so no latency")
        return cls({pool: _cumulative(counts) for pool, counts in pools.items()}, bandwidth_bytes_per_s)

    def latency_s(self, kind: str, unit: float) -> float:
        """The latency at the quantile `unit`, in [0, 1]."""
        bins = self.bins.get(kind) or self.bins.get(_direction(kind)) or self.bins[""]
        wanted = unit * bins[-1][1]
        at = bisect_left(bins, wanted, key=lambda item: item[1])
        bin_number, end = bins[at]
        begin = bins[at - 1][1] if at else 0
        return bin_s(bin_number + (wanted - begin) / (end - begin))


@dataclass(frozen=True, slots=True)
class StorePrices:
    """US dollars. Deletes are free. A GB is 2^30 bytes, a month 730 hours."""

    put_usd: float = 0.0
    """One put, create or list, lost ones included."""
    get_usd: float = 0.0
    """One get, ranged get or head, misses included."""
    gb_in_usd: float = 0.0
    gb_out_usd: float = 0.0
    gb_month_usd: float = 0.0
    hour_usd: float = 0.0
    """Having the store at all, used or not."""


@dataclass(frozen=True, slots=True)
class Channel:
    """A store as the virtual world sees it.

    Attributes:
        model: latency per request kind, and the bandwidth of one connection.
        reads_per_s, writes_per_s: requests that a prefix takes before it says 503 SlowDown; None for no limit.
        prices: what the bill counts.
        source: where the numbers are from, and when.
    """

    name: str
    model: LatencyModel | Empirical
    reads_per_s: float | None = None
    writes_per_s: float | None = None
    prices: StorePrices = StorePrices()
    source: str = "given"

    @property
    def bandwidth_bytes_per_s(self) -> float:
        """Of one connection; infinite where bytes cost no time."""
        return self.model.bandwidth_bytes_per_s

    def latency_s(self, kind: Kind, unit: float) -> float:
        """Seconds of a request without its bytes, at the quantile `unit` in [0, 1]."""
        model = self.model
        seconds = (
            model.latency_s(kind, unit)
            if isinstance(model, Empirical)
            else model.latency_s(_OP.get(kind) or kind, unit)
        )
        return round(seconds, 9)
