"""The cost of quantities on a platform and a store.

    tariff = lambdaml.Tariff(lambdaml.prices(), "s3-standard", "lambda-arm:1769")
    bill = tariff.bill(lambdaml.Quantities(lifetimes_s=[63.2] * 8, requests={"get": 9_000, "create": 2_000}))
    bill.usd, bill.parts(), [(line.what, line.usd, line.price.origin) for line in bill.lines]

Rounding follows the price book: Lambda bills each invocation up to the next millisecond, EC2 each instance up to the
next second and for at least a minute, ElastiCache Serverless at least 100 MB. Everything else is linear.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from lambdaml.cost.billing.prices import Price, PriceBook
from lambdaml.errors import SettingsError, nearest
from lambdaml.simulation.channel import CHANNELS, Channel
from lambdaml.simulation.platform import PLATFORMS, Platform

if TYPE_CHECKING:
    from lambdaml.simulation import SimulationResult

T = TypeVar("T")

GB_BYTES = 2**30
"""The bytes of a GB on an AWS bill."""

KB_BYTES = 2**10
MONTH_S = 730 * 3600

_EPSILON = 1e-6
"""The share of a step that is forgiven, so that 1.1 s are 1,100 steps of a millisecond and not 1,101."""

PARTS = ("functions", "requests", "storage", "transfer")
"""The parts of a bill. Bytes that a store bills in addition to its requests count as requests."""

TRANSFERS = ("same-region", "cross-region", "internet", "nat")
"""The ways in which functions reach a store. All but `same-region` bill the bytes read, and `nat` bills all bytes."""

BILLED = ("invocation", "operation", "duration", "instance", "vcpu", "memory")
"""The items of a platform that a bill has lines for."""

REQUESTS = {
    "put": ("put", "create", "create_lost"),
    "list": ("list",),
    "get": ("get", "get_miss", "get_range", "head", "wait"),
    "delete": ("delete",),
}
"""The items of a store, and the kinds of requests, as a meter names them, that each bills."""


@dataclass(frozen=True, slots=True)
class Quantities:
    """The quantities that a run, or a part of it, used.

    Attributes:
        lifetimes_s: The seconds of each function from its request to its end, one number for each invocation.
        requests: The answered requests by kind, as a meter names them (`lambdaml.storage.meter`).
        bytes_sent, bytes_received: The bytes that the functions sent and received.
        stored_byte_s: The stored bytes times the seconds for which they were kept.
        wall_s: The seconds for which the store was needed, for stores that are billed by the hour.
        moved: The bytes that went from one region to another, by pair of regions, as a simulation knows them.
    """

    lifetimes_s: Sequence[float] = ()
    requests: Mapping[str, int] = field(default_factory=dict)
    bytes_sent: int = 0
    bytes_received: int = 0
    stored_byte_s: float = 0.0
    wall_s: float = 0.0
    moved: Mapping[tuple[str, str], int] = field(default_factory=dict)

    @classmethod
    def of(cls, result: SimulationResult) -> Quantities:
        """Return the quantities of a simulated run."""
        run = result.run
        sent, received = run.bytes["sent"], run.bytes["received"]
        return cls(result.lifetimes_s, run.requests, sent, received, result.stored_byte_s, run.seconds, result.moved)

    def __add__(self, other: Quantities) -> Quantities:
        """Return the sum of both quantities."""
        return Quantities(
            [*self.lifetimes_s, *other.lifetimes_s],
            _added(self.requests, other.requests),
            self.bytes_sent + other.bytes_sent,
            self.bytes_received + other.bytes_received,
            self.stored_byte_s + other.stored_byte_s,
            self.wall_s + other.wall_s,
            _added(self.moved, other.moved),
        )


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a bill.

    Attributes:
        part: The part of the bill that the line belongs to, one of `PARTS`.
        what: The name of what is billed.
        quantity: The quantity in units of the price, rounded as it is billed.
        usd: The US dollars of the line.
    """

    part: str
    what: str
    quantity: float
    usd: float
    price: Price

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "part": self.part,
            "what": self.what,
            "quantity": self.quantity,
            "usd": self.usd,
            "price": asdict(self.price),
        }


@dataclass(frozen=True, slots=True)
class Bill:
    """The cost of quantities, line by line.

    Attributes:
        lines: The lines of the bill.
        notes: Sentences that say what the lines leave out.
    """

    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()

    @property
    def usd(self) -> float:
        """The total in US dollars."""
        return math.fsum(line.usd for line in self.lines)

    def parts(self) -> dict[str, float]:
        """Return the US dollars of each of `PARTS`."""
        return {part: math.fsum(line.usd for line in self.lines if line.part == part) for part in PARTS}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "usd": self.usd,
            "parts": self.parts(),
            "lines": [line.to_dict() for line in self.lines],
            "notes": list(self.notes),
        }


class Tariff:
    """The prices of a platform and a store, ready to bill with.

    Args:
        book: The prices.
        channel: A preset of `lambdaml.simulation.channel`, options included; or a time such as `40ms`, which costs
            nothing; or any store of the book.
        platform: A preset of `lambdaml.simulation.platform`, its memory included, such as `lambda-arm:1769`; or any
            platform of the book.
        memory_mb: The memory of a function, in place of the platform's.
        transfer: The way in which functions reach the store, one of `TRANSFERS`.
        regions: The regions between which bytes move, if they are known. Each pays for what leaves it.

    Raises:
        SettingsError: If there is no such channel, platform, transfer or region, or if memory is billed but not given.
    """

    def __init__(
        self,
        book: PriceBook,
        channel: str,
        platform: str,
        memory_mb: int | None = None,
        transfer: str = "same-region",
        regions: Sequence[str] = (),
    ) -> None:
        if transfer not in TRANSFERS:
            raise SettingsError(f"there is no transfer {transfer!r}{nearest(transfer, TRANSFERS)}")
        self.channel, self.platform, self.transfer = channel, platform, transfer
        self._store = _store_prices(book, channel)
        self._functions, self.memory_mb = _function_prices(book, platform, memory_mb)
        self.vcpus = Platform.parse(platform).vcpus if "vcpu" in self._functions else 0.0
        self._transfer = book[f"transfer/{transfer}"]
        self._out_of = {region: book[f"{region}/cross-region"] for region in dict.fromkeys(regions)}

    @property
    def prices(self) -> tuple[Price, ...]:
        """All prices from which a bill may be made."""
        functions = [price for item, price in self._functions.items() if item in BILLED]
        return (*functions, *self._store.values(), self._transfer, *self._out_of.values())

    def to_dict(self) -> dict[str, Any]:
        """Return the tariff as plain values, with all of its prices."""
        named = {"channel": self.channel, "platform": self.platform, "memory_mb": self.memory_mb}
        regions = {"regions": list(self._out_of)} if self._out_of else {}
        return {**named, "transfer": self.transfer, **regions, "prices": [asdict(price) for price in self.prices]}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Tariff:
        """Return the tariff that `to_dict` wrote. It bills as that one does, whatever the price book says here."""
        prices = [Price(**price) for price in record["prices"]]
        named = {name: value for name, value in record.items() if name != "prices"}
        return cls(PriceBook({price.id: price for price in prices}), **named)

    def bill(self, used: Quantities) -> Bill:
        """Return the bill of these quantities, which is linear except for rounding."""
        lines = [*self._function_lines(used), *self._store_lines(used), *self._transfer_lines(used)]
        return Bill(tuple(line for line in lines if line.quantity), tuple(self._notes(used)))

    def _function_lines(self, used: Quantities) -> list[Line]:
        lines = []
        for item, price in self._functions.items():
            count = len(used.lifetimes_s)
            if item in ("invocation", "operation"):
                lines.append(_line("functions", f"{count:,} {item}s", count, price))
            elif item == "duration":
                billed = billed_s(used.lifetimes_s, price) * self.memory_mb / 1024
                lines.append(_line("functions", f"duration at {self.memory_mb:,} MB", billed, price))
            elif item == "instance":
                seconds = max(billed_s(used.lifetimes_s, price), price.minimum_count * used.wall_s)
                lines.append(_line("functions", f"{count:,} starts of an instance", seconds / 3600, price))
            elif item == "vcpu":
                billed = billed_s(used.lifetimes_s, price) * self.vcpus
                lines.append(_line("functions", f"{self.vcpus:g} vCPUs", billed, price))
            elif item == "memory":
                billed = billed_s(used.lifetimes_s, price) * self.memory_mb / 1024
                lines.append(_line("functions", f"{self.memory_mb:,} MB of memory", billed, price))
        return lines

    def _store_lines(self, used: Quantities) -> list[Line]:
        store, lines = self._store, []
        sent, received = used.bytes_sent, used.bytes_received
        for item, kinds in REQUESTS.items():
            if item in store:
                count = sum(used.requests.get(kind, 0) for kind in kinds)
                lines.append(_line("requests", f"{item} requests", count, store[item]))
        if "ecpu" in store:
            units = sum(used.requests.values()) + (sent + received) / KB_BYTES
            lines.append(_line("requests", "requests and KB", units, store["ecpu"]))
        if "bytes-in" in store:
            lines.append(_line("requests", "bytes written", sent / GB_BYTES, store["bytes-in"]))
        if "bytes-out" in store:
            lines.append(_line("requests", "bytes read", received / GB_BYTES, store["bytes-out"]))
        if "storage" in store:
            price = store["storage"]
            gb_s = max(used.stored_byte_s / GB_BYTES, price.minimum_gb * used.wall_s)
            period_s = MONTH_S if price.unit == "GB-month" else 3600
            lines.append(_line("storage", "storage", gb_s / period_s, price))
        if "server" in store:
            lines.append(_line("storage", "the server's time", used.wall_s / 3600, store["server"]))
        return lines

    def _transfer_lines(self, used: Quantities) -> list[Line]:
        moved = used.bytes_received + (used.bytes_sent if self.transfer == "nat" else 0)
        lines = [_line("transfer", self.transfer, moved / GB_BYTES, self._transfer)] if self._transfer.usd else []
        for (out_of, into), size_bytes in used.moved.items():
            lines.append(_line("transfer", f"{out_of} to {into}", size_bytes / GB_BYTES, self._out_of[out_of]))
        return lines

    def _notes(self, used: Quantities) -> list[str]:
        notes = []
        if used.lifetimes_s and not self._functions:
            notes.append(f"functions cost nothing: the price book has no prices of {self.platform}")
        if used.requests and not self._store:
            notes.append(f"requests and storage cost nothing: the price book has no prices of {self.channel}")
        elif "server" not in self._store and "ecpu" not in self._store:
            known = {kind for item, kinds in REQUESTS.items() if item in self._store for kind in kinds}
            left = {kind: count for kind, count in used.requests.items() if count and kind not in known}
            if left:
                notes.append(f"not billed, having no price: {', '.join(f'{kind} {n:,}' for kind, n in left.items())}")
        return notes


def _added(one: Mapping[T, int], other: Mapping[T, int]) -> dict[T, int]:
    return {kind: one.get(kind, 0) + other.get(kind, 0) for kind in {**one, **other}}


def billed_s(lifetimes_s: Sequence[float], price: Price) -> float:
    """Return the seconds that are billed for functions with these lifetimes.

    Each function's time is rounded up to the price's step, and is at least its minimum.
    """
    if not price.step_s:
        return math.fsum(max(seconds, price.minimum_s) for seconds in lifetimes_s)
    per_s, ceil = 1 / price.step_s, math.ceil
    least = ceil(price.minimum_s * per_s - _EPSILON)
    steps = [ceil(seconds * per_s - _EPSILON) for seconds in lifetimes_s]
    return sum(steps if least == 0 else [max(count, least) for count in steps]) * price.step_s


def _line(part: str, what: str, quantity: float, price: Price) -> Line:
    return Line(part, what, quantity, quantity * price.usd, price)


def _store_prices(book: PriceBook, channel: str) -> Mapping[str, Price]:
    name = channel.partition(":")[0]
    if name not in book.places and name not in CHANNELS and channel != "measured":
        Channel.parse(channel)
    prices = book.place(name)
    if prices and not {"put", "ecpu", "server"} & prices.keys():
        raise SettingsError(f"{channel!r} is no store")
    return prices


def _function_prices(book: PriceBook, platform: str, memory_mb: int | None) -> tuple[Mapping[str, Price], int]:
    name, colon, parameters = platform.partition(":")
    prices = book.place(name)
    if name in PLATFORMS.factories:
        memory_mb = memory_mb or Platform.parse(platform).memory_mb
    elif not {"duration", "instance"} & prices.keys():
        platforms = [place for place in book.places if {"duration", "instance"} & book.place(place).keys()]
        raise SettingsError(f"there is no platform {name!r}{nearest(name, {*platforms, *PLATFORMS.factories})}")
    elif colon and memory_mb is None:
        if not parameters.isdecimal():
            raise SettingsError(f"platform {platform!r}: write the memory in MB, as in '{name}:3008'")
        memory_mb = int(parameters)
    if "duration" in prices and not memory_mb:
        raise SettingsError(f"platform {platform!r} bills memory: write how much, as in '{name}:3008'")
    return prices, memory_mb or 0
