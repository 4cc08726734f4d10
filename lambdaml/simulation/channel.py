"""A store in the virtual world: its latency, bandwidth and request limits. This does no I/O and needs no clock.

    channel = Channel.parse("s3-standard")                  # or s3-express:bandwidth=40MB/s, or 40ms
    channel.latency_s("get", random()), channel.transfer_s(1_000_000)

The kinds of requests are those of a meter (`lambdaml.storage.meter`): `get`, `get_miss`, `create`, `create_lost`, ...
Seconds are rounded to 1e-9, so that the last bit of a mathematics library does not change a simulation.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import accumulate

from lambdaml.errors import SettingsError
from lambdaml.storage.errors import BadStoreURL
from lambdaml.storage.latency import PRESETS, LatencyModel, is_write, parse_model
from lambdaml.storage.meter import MeterReading, bin_s
from lambdaml.storage.url import parse_number

OPTIONS = ("bandwidth", "reads_per_s", "writes_per_s")
"""The options that may follow a channel's name, as in `s3-standard:bandwidth=40MB/s,writes_per_s=350`."""

_ALL = "all"


@dataclass(frozen=True, slots=True)
class Empirical:
    """The latencies that a meter saw. Within a bin of its histogram they are even on the logarithmic scale.

    A kind that it did not see is as slow as the kinds that it saw of the same direction, or else as all kinds.

    Attributes:
        bins: Pairs (bin of the meter, requests up to its end), in order, by kind or by `read`, `write` or `all`.
        bandwidth_bytes_per_s: The bandwidth of one connection, or infinity if transfers take no time.
    """

    bins: Mapping[str, tuple[tuple[int, int], ...]] = field(hash=False)
    bandwidth_bytes_per_s: float = math.inf

    @classmethod
    def of(cls, reading: MeterReading, bandwidth_bytes_per_s: float = math.inf) -> Empirical:
        """Take the latencies of a reading. Raises ValueError if the reading has no answered request."""
        pools: defaultdict[str, Counter[int]] = defaultdict(Counter)
        for kind, counts in reading.latency.items():
            for pool in (kind, _direction(kind), _ALL):
                pools[pool].update(counts)
        if not pools:
            raise ValueError("the reading has no answered request, and so no latency")
        bins = {
            pool: tuple(zip(sorted(counts), accumulate(counts[n] for n in sorted(counts)), strict=True))
            for pool, counts in pools.items()
        }
        return cls(bins, bandwidth_bytes_per_s)

    def latency_s(self, kind: str, unit: float) -> float:
        """Return the latency at the quantile `unit`, in [0, 1]."""
        bins = self.bins.get(kind) or self.bins.get(_direction(kind)) or self.bins[_ALL]
        wanted = unit * bins[-1][1]
        at = bisect_left(bins, wanted, key=lambda item: item[1])
        bin_number, end = bins[at]
        begin = bins[at - 1][1] if at else 0
        return bin_s(bin_number + (wanted - begin) / (end - begin))

    def transfer_s(self, size_bytes: int) -> float:
        """Return the seconds that it takes to move this many bytes over one connection."""
        return size_bytes / self.bandwidth_bytes_per_s


@dataclass(frozen=True, slots=True)
class Channel:
    """A store as functions experience it.

    Attributes:
        name: The text from which it was parsed, the name of a preset, or `measured`.
        model: The latency by kind of request, and the bandwidth of one connection.
        reads_per_s, writes_per_s: The requests that one prefix takes before it answers 503 SlowDown, or None for no
            limit.
    """

    name: str
    model: LatencyModel | Empirical
    reads_per_s: float | None = None
    writes_per_s: float | None = None

    @classmethod
    def parse(cls, text: str) -> Channel:
        """Parse a preset (see `CHANNELS`) or a time such as `40ms`, with options: `s3-express:bandwidth=40MB/s`.

        Raises:
            SettingsError: If there is no such preset (the nearest are shown) or option, or the option's value is bad.
        """
        name, _, rest = text.partition(":")
        options = dict(piece.partition("=")[::2] for piece in rest.split(",") if rest)
        for option in options:
            if option not in OPTIONS:
                raise SettingsError(f"channel {text!r} has no option {option!r} (there is: {', '.join(OPTIONS)})")
        try:
            model = parse_model(name, options.pop("bandwidth", None))
            limits = {option: parse_number(value, option) for option, value in options.items()}
        except BadStoreURL as error:
            raise SettingsError(f"channel {text!r}: {error}") from None
        if not all(limits.values()):
            raise SettingsError(f"channel {text!r}: a limit of no request at all would stop every run")
        preset = CHANNELS.get(name) or cls(name, model)
        reads_per_s = limits.get("reads_per_s", preset.reads_per_s)
        writes_per_s = limits.get("writes_per_s", preset.writes_per_s)
        return replace(preset, name=text, model=model, reads_per_s=reads_per_s, writes_per_s=writes_per_s)

    @classmethod
    def measured(
        cls, reading: MeterReading, bandwidth_bytes_per_s: float = math.inf, like: Channel | None = None
    ) -> Channel:
        """Return a channel with a real meter's latencies, and with the limits of the channel that it is `like`, if any.

        A meter's latencies include the transfers of what it saw. Therefore give a bandwidth only with a reading of
        small objects. Without one, every object takes as long as those that the meter saw.

        Raises:
            ValueError: If the reading has no answered request.
        """
        return replace(like or CHANNELS["disk"], name="measured", model=Empirical.of(reading, bandwidth_bytes_per_s))

    @property
    def bandwidth_bytes_per_s(self) -> float:
        """The bandwidth of one connection, which is infinite where bytes take no time."""
        return self.model.bandwidth_bytes_per_s

    def latency_s(self, kind: str, unit: float) -> float:
        """Return the seconds that a request takes besides its bytes, at the quantile `unit` in [0, 1]."""
        return round(self.model.latency_s(kind, unit), 9)

    def transfer_s(self, size_bytes: int) -> float:
        """Return the seconds of these bytes over one connection that has the function's network to itself."""
        return round(self.model.transfer_s(size_bytes), 9)

    def limit_per_s(self, kind: str) -> float | None:
        """Return the requests of this direction that one prefix takes, or None for no limit."""
        return self.writes_per_s if is_write(kind) else self.reads_per_s


CHANNELS: dict[str, Channel] = {
    name: Channel(name, PRESETS[name], *limits)
    for name, limits in {
        "s3-standard": (5500, 3500),
        "s3-express": (200_000, 100_000),
        "redis": (),
        "disk": (),
        "lambdaml-s3": (5500, 3500),
        "lambdaml-elasticache": (),
        "fmi-s3": (5500, 3500),
        "fmi-redis": (),
    }.items()
}
"""The presets, as of November 2026, for us-east-1. `lambdaml.storage.latency.PRESETS` has their latency and bandwidth,
and `lambdaml.cost.billing.prices` their prices.

| preset                   | limits                                       |
|--------------------------|----------------------------------------------|
| s3-standard              | a prefix (AWS)                               |
| s3-express               | a bucket, by default (AWS)                   |
| lambdaml-s3, fmi-s3      | as s3-standard                               |
| all others               | assumed: none                                |

The limits are those of AWS's performance guide for S3, where a prefix takes at least 3,500 and 5,500. It takes more
after a busy period, which is not modelled. Those of s3-express-performance.html are 200,000 reads and 100,000 writes.
"""


class TokenBucket:
    """A limiter that lets `rate_per_s` requests a second pass, and `burst` at once (by default a second's worth).

    S3 does not say how large its bursts may be, so a second's worth is assumed.
    """

    def __init__(self, rate_per_s: float, burst: float | None = None) -> None:
        self._gap_s = 1 / rate_per_s
        self._slack_s = (max(rate_per_s if burst is None else burst, 1.0) - 1) * self._gap_s + 1e-9
        self._due = -math.inf

    def take(self, now: float) -> bool:
        """Return whether one request may pass now. If not, nothing is taken. Moments must not go back."""
        due = max(self._due, now)
        if due - now > self._slack_s:
            return False
        self._due = due + self._gap_s
        return True


class Pipe:
    """A function's network, which all its connections share in the order of arrival.

    It is work-conserving: it is never idle while bytes wait, and moves no more than `bytes_per_s`. A small transfer
    that begins during a large one ends after it, where fair sharing would let it pass. The last of a group ends alike.
    """

    def __init__(self, bytes_per_s: float = math.inf) -> None:
        self.bytes_per_s = bytes_per_s
        self.free_at = 0.0

    def finish(self, now: float, size_bytes: int, connection_bytes_per_s: float = math.inf) -> float:
        """Return when a transfer ends that begins now over a connection of this bandwidth."""
        self.free_at = max(now, self.free_at) + size_bytes / self.bytes_per_s
        return round(max(now + size_bytes / connection_bytes_per_s, self.free_at), 9)


def _direction(kind: str) -> str:
    return "write" if is_write(kind) else "read"
