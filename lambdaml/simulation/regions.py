"""Regions of AWS, and the links between functions and a bucket in one of them.

    placement = Placement.parse(3, "us-east-1:2,eu-west-1:1")    # the bucket is in the first region, unless said otherwise
    placement.link(2).rtt_s                                      # 0.07: what each request of function 2 takes more

A bucket has one region, and a function in another one reaches it over a link. A request on a kept connection takes one
round trip more than in the bucket's own region, and TCP sends no more than its window in a round trip, so that a connection
moves at most `TCP_WINDOW_BYTES` / round trip (RFC 7323, section 1.1). A copy of the bucket in each region is not modelled.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lambdaml.errors import SettingsError, nearest

TCP_WINDOW_BYTES = 2**20
"""The bytes that a connection has on their way at most. This is assumed.

The mean bandwidth of all pairs of regions is then 9.6 MB/s, and that of the worst 3.2 MB/s: 9 and 26 times below the 85 MB/s
of a connection to S3 in its own region. Gaia (NSDI 2017) reports that links between 11 regions of EC2 were 15 times slower
than those of a data centre on average, and 60 times for the worst pair. An operating system that is tuned for it has
windows of several MiB. Losses and the slow start of a new connection are not modelled.
"""

REGIONS = (
    *("us-east-1", "us-west-1", "us-west-2", "eu-west-1", "eu-central-1"),
    *("ap-northeast-1", "ap-northeast-2", "ap-southeast-1", "ap-southeast-2", "ap-south-1", "sa-east-1"),
)
"""Virginia, California, Oregon, Ireland, Frankfurt, Tokyo, Seoul, Singapore, Sydney, Mumbai and São Paulo, the regions of
Gaia's test bed."""

_ROUND_TRIPS_MS = (
    (60, 60, 70, 90, 150, 175, 220, 200, 185, 115),
    (20, 130, 150, 110, 130, 170, 140, 230, 170),
    (125, 145, 105, 120, 165, 140, 225, 175),
    (25, 200, 230, 180, 255, 120, 180),
    (225, 225, 160, 250, 120, 205),
    (35, 70, 105, 125, 260),
    (70, 140, 125, 285),
    (95, 60, 325),
    (145, 310),
    (295,),
)
"""The median round trips from each region to those after it in `REGIONS`, in steps of 5 ms.

They are means of what cloudping.co, which measures all pairs between virtual machines, showed at two times, as others
recorded it: a matrix of about 2022 for all pairs, both ways (libp2p/jvm-libp2p, tools/simulator, AwsLatencies.kt), and for 27 of the
55 pairs one of February 2026. The two differ by at most 22 %,
and mostly by less than 10 %. This project measured none.
"""


@dataclass(frozen=True, slots=True)
class Link:
    """The link between a function and the bucket, compared with that of a function next to the bucket.

    Attributes:
        rtt_s: The seconds that each request takes more.
        bytes_per_s: The bandwidth of a connection over this link.
        times: The factor by which requests take longer and bandwidths are smaller.
    """

    rtt_s: float = 0.0
    bytes_per_s: float = math.inf
    times: float = 1.0

    def latency_s(self, near_s: float) -> float:
        """Return the latency of a request that takes `near_s` from next to the bucket."""
        return (near_s + self.rtt_s) * self.times

    def connection_bytes_per_s(self, near: float) -> float:
        """Return the bandwidth of a connection that has `near` bytes a second from next to the bucket."""
        return min(near, self.bytes_per_s) / self.times


NEAR = Link()
"""The link of a function next to the bucket."""


@dataclass(frozen=True, slots=True)
class Placement:
    """The regions of the bucket and of each function.

    Attributes:
        bucket: The region of the bucket, or "" if there are no regions.
        functions: The region of each function, or () if all are in the bucket's.
        slow: The function with a slow link and its factor (see `Link.times`), or None if there is none.
    """

    bucket: str = ""
    functions: tuple[str, ...] = ()
    slow: tuple[int, float] | None = None

    @classmethod
    def parse(
        cls, functions: int, regions: str | None = None, bucket_region: str | None = None, slow_link: str | None = None
    ) -> Placement:
        """Return the placement of a run's functions.

        Args:
            functions: The number of functions.
            regions: The number of functions in each region, such as `us-east-1:2,eu-west-1:1`, in the order of their numbers.
            bucket_region: The region of the bucket. Defaults to the first one of `regions`.
            slow_link: A function's number and the factor of its link, such as `3:10`.

        Raises:
            SettingsError: If a region does not exist (the nearest are shown), if the numbers do not add up to the
                functions, or if a text cannot be read.
        """
        slow = None if slow_link is None else _slow(slow_link, functions)
        if regions is None:
            if bucket_region is not None:
                raise SettingsError("a bucket's region says nothing without regions of functions: give both")
            return cls(slow=slow)
        named = dealt(regions)
        bucket = _known(bucket_region) if bucket_region is not None else named[0]
        if len(named) != functions:
            raise SettingsError(f"regions {regions!r} have {len(named):,} functions, but the run has {functions:,}")
        return cls(bucket, named, slow)

    def __bool__(self) -> bool:
        """Whether links differ from those of functions next to the bucket, or could."""
        return bool(self.functions) or self.slow is not None

    @property
    def crossed(self) -> tuple[str, ...]:
        """The regions between which bytes move: the bucket's and those of functions elsewhere, if there are any."""
        far = dict.fromkeys(region for region in self.functions if region != self.bucket)
        return (self.bucket, *far) if far else ()

    def link(self, function: int) -> Link:
        """Return the link of a function."""
        times = self.slow[1] if self.slow is not None and self.slow[0] == function else 1.0
        if not self.functions or self.functions[function] == self.bucket:
            return Link(times=times)
        rtt_s = round_trip_s(self.functions[function], self.bucket)
        return Link(rtt_s, TCP_WINDOW_BYTES / rtt_s, times)

    def moved(self, meters: Iterable[tuple[int, int, int]]) -> Mapping[tuple[str, str], int]:
        """Return the bytes that went from one region to another.

        Args:
            meters: Triples of a function, the bytes that it sent and the bytes that it received.
        """
        bytes_moved: Counter[tuple[str, str]] = Counter()
        for function, sent, received in meters if self.functions else ():
            there = self.functions[function]
            if there != self.bucket:
                bytes_moved[there, self.bucket] += sent
                bytes_moved[self.bucket, there] += received
        return dict(bytes_moved)


def round_trip_s(one: str, other: str) -> float:
    """Return the round trip between two different regions, in seconds."""
    low, high = sorted((REGIONS.index(one), REGIONS.index(other)))
    return _ROUND_TRIPS_MS[low][high - low - 1] / 1000


def dealt(regions: str) -> tuple[str, ...]:
    """Return the region of each function that a text such as `us-east-1:2,eu-west-1:1` names.

    Raises:
        SettingsError: If a region does not exist, or the text cannot be read.
    """
    named: list[str] = []
    for piece in regions.split(","):
        name, _, count = piece.strip().partition(":")
        if not count.isdecimal() or not int(count):
            raise SettingsError(f"regions {regions!r}: write REGION:FUNCTIONS, such as 'us-east-1:2,eu-west-1:1'")
        named += [_known(name)] * int(count)
    return tuple(named)


def _known(region: str) -> str:
    if region not in REGIONS:
        raise SettingsError(f"there is no region {region!r}{nearest(region, REGIONS)}")
    return region


def _slow(text: str, functions: int) -> tuple[int, float]:
    number, _, factor = text.partition(":")
    try:
        function, times = int(number), float(factor)
    except ValueError:
        raise SettingsError(f"slow link {text!r}: write FUNCTION:TIMES, such as '3:10'") from None
    if not 0 <= function < functions:
        raise SettingsError(f"slow link {text!r}: functions have the numbers 0 to {functions - 1}")
    if not 0 < times < math.inf:
        raise SettingsError(f"slow link {text!r}: the factor must be positive")
    return function, times
