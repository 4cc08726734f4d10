"""The bill of a run: what all its functions used, including deaths and restarts, and what that costs.

found = lambdaml.bill("runs/digits-1", platform="lambda-arm:1769", channel="s3-standard")
found.bill.usd, found.workers, found.phases, found.notes
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from lambdaml.cost.billing.attribution import COST_PHASES, SHARED, PhaseCost, attribute
from lambdaml.cost.billing.prices import PriceBook
from lambdaml.cost.billing.prices import prices as own_prices
from lambdaml.cost.billing.tariff import Bill, Quantities, Tariff
from lambdaml.cost.billing.travels import travel_cost
from lambdaml.log.reader import RunReader
from lambdaml.log.usage import Usage
from lambdaml.storage import ObjectInfo
from lambdaml.storage.url import StoreURL

HERE = "local"
"""The platform of functions that are processes of a machine which is paid for anyway."""


@dataclass(frozen=True, slots=True)
class Item:
    """A part of a bill, and what it stands for.

    Attributes:
        name: The phase, worker or commit that the part is for; `run` names what was used for no single one.
        share: The amounts that were used for it.
        usd: Their cost in US dollars.
    """

    name: int | str
    share: PhaseCost
    usd: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, which are also the row of a table."""
        share, requests = self.share, self.share.requests
        return {
            "name": self.name,
            "updates": share.updates,
            "seconds": round(share.seconds, 6),
            "requests": sum(requests.values()),
            **{kind: requests.get(kind, 0) for kind in ("get", "get_miss", "create")},
            "bytes_sent": share.bytes_sent,
            "bytes_received": share.bytes_received,
            "usd": self.usd,
        }


@dataclass(frozen=True, slots=True)
class RunBill:
    """The quantities that a run used, and their cost.

    Attributes:
        run: The URL of the run.
        platform, channel: The platform and the store as which it is billed.
        here, there: The platform and the store on which it ran.
        functions: The number of functions that were started.
        memory_mb: The memory that is billed for each function, or 0 if none is.
        peak_bytes: The memory of the function that needed most, or 0 if it is not known.
        used: The exact quantities that the meters counted.
        bill: The lines of the bill.
        phases: The parts that add up to the dollars of the functions.
        workers, commits: The parts that add up to all dollars.
        tuning: The part of `run` that travelling models took; None if the run was not tuned. Its updates are those that
            judged one.
        notes: Sentences that say what is estimated, incomplete or left out.
    """

    run: str
    platform: str
    channel: str
    here: str
    there: str
    functions: int
    memory_mb: int
    peak_bytes: int
    used: Quantities
    bill: Bill
    phases: tuple[Item, ...]
    workers: tuple[Item, ...]
    commits: tuple[Item, ...]
    notes: tuple[str, ...]
    tuning: Item | None = None

    @property
    def function_seconds(self) -> float:
        """The total seconds of all functions."""
        return sum(self.used.lifetimes_s)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        used = self.used
        parts = {name: [item.to_dict() for item in getattr(self, name)] for name in ("phases", "workers", "commits")}
        return {
            "run": self.run,
            "platform": self.platform,
            "channel": self.channel,
            "ran_on": {"platform": self.here, "channel": self.there},
            "used": {
                "functions": self.functions,
                "function_seconds": self.function_seconds,
                "memory_mb": self.memory_mb,
                "peak_memory_bytes": self.peak_bytes,
                "requests": dict(sorted(used.requests.items())),
                "bytes_sent": used.bytes_sent,
                "bytes_received": used.bytes_received,
                "stored_byte_s": used.stored_byte_s,
                "wall_s": used.wall_s,
            },
            **self.bill.to_dict(),
            **parts,
            **({"tuning": self.tuning.to_dict()} if self.tuning is not None else {}),
            "notes": list(self.notes),
        }


def bill(
    run: RunReader | str,
    *,
    platform: str | None = None,
    channel: str | None = None,
    transfer: str = "same-region",
    prices: PriceBook | None = None,
    rows: Sequence[Mapping[str, Any]] | None = None,
) -> RunBill:
    """Return what all functions of a run used, and what that costs.

    Args:
        run: The run, or its URL.
        platform: The platform as which the functions are billed. Defaults to the one on which they ran; their seconds
            stay as they were.
        channel: The store as which the run's store is billed. Defaults to what it is.
        transfer: The way in which functions reach the store: `same-region`, `cross-region`, `internet` or `nat`.
        prices: The price book. Defaults to the packaged prices with your own on top of them.
        rows: The rows of the run's trace, if they are known already.

    Raises:
        SettingsError: If there is no such platform, channel or transfer.
        BadObject: If an object of the run is damaged.
    """
    run = RunReader(run) if isinstance(run, str) else run
    usage = run.usage()
    objects = list(run.store.list(""))
    there = channel_of(run.url)
    here = next((each.platform for each in usage if each.platform), HERE)
    tariff = Tariff(prices or own_prices(), channel or there, platform or here, transfer=transfer)
    used = quantities(usage, objects)
    whole, found = tariff.bill(used), attribute(run, usage, rows)
    travels = travel_cost(run, objects)
    peak = max((each.memory_bytes for each in usage if not each.launcher), default=0)
    second_usd = whole.parts()["functions"] / max(sum(used.lifetimes_s), 1e-9)

    @cache
    def moved_usd(requests: tuple[tuple[str, int], ...], sent: int, received: int) -> float:
        parts = tariff.bill(Quantities((), dict(requests), sent, received)).parts()
        return parts["requests"] + parts["transfer"]

    def usd(share: PhaseCost) -> float:
        moved = moved_usd(tuple(share.requests.items()), share.bytes_sent, share.bytes_received)
        return share.seconds * second_usd + moved

    def items(shares: Mapping[int | str, PhaseCost]) -> tuple[Item, ...]:
        own = [Item(n, s, usd(s)) for n, s in shares.items() if n != SHARED]
        return (*own, Item(SHARED, shares[SHARED], whole.usd - sum(item.usd for item in own)))

    return RunBill(
        run=run.url,
        platform=tariff.platform,
        channel=tariff.channel,
        here=here,
        there=there,
        functions=len(used.lifetimes_s),
        memory_mb=tariff.memory_mb,
        peak_bytes=peak,
        used=used,
        bill=whole,
        phases=tuple(Item(n, s, s.seconds * second_usd) for n, s in found.phases.items()),
        workers=items(found.workers),
        commits=items(found.commits),
        notes=(*whole.notes, *_notes(tariff, usage, here, there, peak, found.phases)),
        tuning=None if travels is None else Item("tuning", travels, usd(travels)),
    )


def quantities(usage: list[Usage], objects: list[ObjectInfo]) -> Quantities:
    """Return what a run used: exactly what its meters counted, and the storage of the objects that still exist."""
    requests: dict[str, int] = {}
    for each in usage:
        for kind, count in each.reading.requests.items():
            requests[kind] = requests.get(kind, 0) + count
    end = max((info.modified for info in objects), default=0.0)
    begin = min((info.modified for info in objects), default=0.0)
    launched_s = sum(each.seconds for each in usage if each.launcher)
    return Quantities(
        [each.seconds for each in usage if not each.launcher],
        requests,
        sum(each.reading.bytes_sent for each in usage),
        sum(each.reading.bytes_received for each in usage),
        sum(info.size_bytes * (end - info.modified) for info in objects),
        launched_s or end - begin,
    )


def channel_of(url: str) -> str:
    """Return the store of the price book that a run's URL stands for; `disk` stands for stores that nobody bills."""
    parsed = StoreURL.parse(url)
    if parsed.scheme == "s3" and "endpoint" not in parsed.params:
        return "s3-express" if parsed.location.partition("/")[0].endswith("--x-s3") else "s3-standard"
    return "disk"


def _notes(
    tariff: Tariff, usage: list[Usage], here: str, there: str, peak: int, phases: Mapping[str, PhaseCost]
) -> list[str]:
    notes, functions = [], [each for each in usage if not each.launcher]
    if tariff.platform != here:
        notes.append(f"function-seconds are those of the machine it ran on, not those of {tariff.platform}")
    if tariff.channel != there:
        notes.append(f"requests are those it made to its own store: a wait for {tariff.channel} takes more or fewer")
    if peak > tariff.memory_mb * 2**20 and tariff.memory_mb:
        notes.append(f"a function needed {peak / 2**20:,.0f} MB: {tariff.memory_mb:,} MB would have been too small")
    if lost := [each for each in functions if not each.complete]:
        notes.append(f"{len(lost)} of {len(functions)} functions could not report to their end: theirs is the least")
    if phases["unreported"].seconds > 0:
        notes.append(f"unreported: {COST_PHASES['unreported']}")
    if failed := sum(sum(each.reading.errors.values()) for each in usage):
        notes.append(
            f"{failed:,} failed requests are not billed: S3 does not bill its own errors, lost answers it does"
        )
    if launchers := [each for each in usage if each.launcher]:
        seconds = sum(each.seconds for each in launchers)
        notes.append(f"the {seconds:,.0f} s of the process that started the run and evaluated are not billed")
    notes.append("storage: of objects that still stand there, until the last one was written; keeping them costs on")
    return notes
