"""A store that is as slow as another: `?latency=s3-standard&bandwidth=65MB/s&latency_seed=1`.

A request takes a drawn latency plus its bytes over the bandwidth of one connection, and takes *effect* when a real one
would: a write becomes visible after its transfer and half of its latency, and a read sees the store at half of its
latency. The total includes the time that the store inside takes, so it is never shorter than that.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import TypeVar

from lambdaml.storage.backend import WRITES, Backend, Layer, Op
from lambdaml.storage.draws import Draws
from lambdaml.storage.errors import BadStoreURL
from lambdaml.storage.url import StoreURL, nearest_known, parse_number

T = TypeVar("T")

_NORMAL = NormalDist()
_Z99 = _NORMAL.inv_cdf(0.99)
_LEAST_UNIT = 2.0**-53


def normal(unit: float) -> float:
    """Return the standard normal quantile at `unit` in [0, 1]. It is finite at both ends; a generator may give 0."""
    return _NORMAL.inv_cdf(min(max(unit, _LEAST_UNIT), 1 - _LEAST_UNIT))


def lognormal(median: float, p99: float, unit: float) -> float:
    """Return the quantile at `unit` of the lognormal with this median and 99th percentile; if equal, exactly that."""
    return median if p99 <= median else median * math.exp(math.log(p99 / median) / _Z99 * normal(unit))


def is_write(kind: str) -> bool:
    """Return whether a meter counts writes under this kind: `create_lost` is a write, `get_miss` is not."""
    return kind.partition("_")[0] in WRITES


@dataclass(frozen=True, slots=True)
class LatencyModel:
    """Lognormal latencies by their median and 99th percentile in seconds. If these are equal, so is each latency.

    Attributes:
        read_s: The median and the 99th percentile of gets, heads and lists, in seconds.
        write_s: The median and the 99th percentile of puts, creates and deletes, in seconds.
        bandwidth_bytes_per_s: The bandwidth of one connection, or infinity if bytes take no time.
    """

    read_s: tuple[float, float]
    write_s: tuple[float, float]
    bandwidth_bytes_per_s: float = math.inf

    def latency_s(self, kind: str, unit: float) -> float:
        """Return the latency of a kind of request, as a meter names it, at the quantile `unit` in [0, 1]."""
        return lognormal(*(self.write_s if is_write(kind) else self.read_s), unit)

    def transfer_s(self, size_bytes: int) -> float:
        """Return the seconds that it takes to move this many bytes over one connection."""
        return size_bytes / self.bandwidth_bytes_per_s


PRESETS: dict[str, LatencyModel] = {
    "s3-standard": LatencyModel((0.027, 0.120), (0.040, 0.200), 85e6),
    "s3-express": LatencyModel((0.005, 0.015), (0.008, 0.025), 85e6),
    "redis": LatencyModel((0.0005, 0.002), (0.0005, 0.002), 600e6),
    "disk": LatencyModel((0.00005, 0.0005), (0.00015, 0.0015), 2e9),
    "lambdaml-s3": LatencyModel((0.080, 0.080), (0.080, 0.080), 65e6),
    "lambdaml-elasticache": LatencyModel((0.010, 0.010), (0.010, 0.010), 630e6),
    "fmi-s3": LatencyModel((0.0404, 0.0404), (0.0404, 0.0404), 50e6),
    "fmi-redis": LatencyModel((0.0052, 0.0052), (0.0052, 0.0052), 100e6),
}
"""The presets of `?latency=`, as of November 2026. This project measured none of them on AWS.

| preset               | median                  | 99th percentile         | bandwidth of a connection        |
|----------------------|-------------------------|-------------------------|----------------------------------|
| s3-standard          | 27 ms read, 40 ms write | assumed, 4 to 5 medians | 85 MB/s (AWS 85-90, quickwit 80) |
| s3-express           | 5 ms read, 8 ms write   | assumed, 3 medians      | assumed as s3-standard           |
| redis                | assumed, in one zone    | assumed, 4 medians      | assumed, 5 Gbit/s                |
| disk                 | 0.05 ms, 0.15 ms        | assumed, 10 medians     | 1 MB in 0.5 ms                   |
| lambdaml-s3          | 80 ms                   | the model has no tail   | 65 MB/s                          |
| lambdaml-elasticache | 10 ms                   | the model has no tail   | 630 MB/s (cache.t3.medium)       |
| fmi-s3               | 40.4 ms                 | the model has no tail   | 50 MB/s                          |
| fmi-redis            | 5.2 ms                  | the model has no tail   | 100 MB/s (400 MB/s for all)      |

The medians of S3 and Express are those of Skyrise (arXiv 2501.07771), from memory. The tail of S3 is assumed to lie
between quickwit's "80 ms, common" (blog, November 2023) and Skyrise's "hundreds of ms" at p99.9. The disk was measured
on ext4 and 2 vCPU with 64 KB. The presets lambdaml-* are constants of LambdaML's analytic model (SIGMOD 2021, arXiv
2105.07806, table 6), from memory. The presets fmi-* are those of FMI's channel model (spcl/fmi, config/fmi.json at
cd63588, 2023; arXiv 2305.08763; measured in eu-central-1).
"""


def parse_model(latency: str, bandwidth: str | None = None) -> LatencyModel:
    """Parse `s3-standard` or `40ms`, and `65MB/s` (MB = 1e6 bytes) to replace the preset's own bandwidth.

    Raises:
        BadStoreURL: If `latency` is neither a preset nor a time, or `bandwidth` is not a bandwidth.
    """
    model = PRESETS.get(latency)
    if model is None:
        match = re.fullmatch(r"([0-9.]+)(us|ms|s)", latency)
        if match is None:
            raise BadStoreURL(
                f"latency={latency}: write a time like 40ms, or a preset{nearest_known(latency, PRESETS)}"
            )
        seconds = parse_number(match[1], "latency") * {"us": 1e-6, "ms": 1e-3, "s": 1.0}[match[2]]
        model = LatencyModel((seconds, seconds), (seconds, seconds))
    if bandwidth is None:
        return model
    match = re.fullmatch(r"([0-9.]+)(k|M|G)B/s", bandwidth)
    if match is None or not (rate := parse_number(match[1], "bandwidth") * {"k": 1e3, "M": 1e6, "G": 1e9}[match[2]]):
        raise BadStoreURL(f"bandwidth={bandwidth}: write it like 65MB/s")
    return LatencyModel(model.read_s, model.write_s, rate)


class Slow(Layer):
    """A layer that makes each request to its backend as slow as a model says, in the calling thread.

    Each request has the whole bandwidth: requests in flight together do not share it, as on S3.
    """

    def __init__(self, inner: Backend, latency: str, bandwidth: str | None = None, seed: int = 0) -> None:
        super().__init__(inner)
        self.model = parse_model(latency, bandwidth)
        self.near = False
        seed_text = str(seed) if seed else None
        self.url = str(StoreURL.parse(inner.url).adding(latency=latency, bandwidth=bandwidth, latency_seed=seed_text))
        self._draws = Draws(seed)

    def around(self, op: Op, key: str, sent_bytes: int, call: Callable[[], T]) -> T:
        begin = time.perf_counter()
        latency = self.model.latency_s(op, self._draws.unit(op, key))
        up = self.model.transfer_s(sent_bytes)
        _sleep_until(begin + up + latency / 2)
        result = call()
        down = self.model.transfer_s(len(result)) if isinstance(result, bytes | memoryview) else 0.0
        _sleep_until(begin + up + latency + down)
        return result


def _sleep_until(moment: float) -> None:
    wait = moment - time.perf_counter()
    if wait > 0:
        time.sleep(wait)
