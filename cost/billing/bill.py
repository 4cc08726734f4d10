"""The bill of a run: what it used over all its functions, deaths and restarts, and what that costs.

found = bill_run(lambdaml.Run("runs/digits-1"), platform="lambda-arm:1769", channel="s3-standard")
found.bill.usd, found.workers, found.phases, found.notes
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lambdaml.cost.billing.attribution import COST_PHASES, SHARED, PhaseCost, attribute
from lambdaml.cost.billing.prices import PriceBook, user_book
from lambdaml.cost.billing.tariff import Bill, Quantities, Tariff
from lambdaml.log.run import Run
from lambdaml.log.usage import Usage
from lambdaml.storage import ObjectInfo
from lambdaml.storage.url import StoreURL

HERE = "local"
"""The platform of functions that are processes of a machine which is paid for anyhow."""


@dataclass(frozen=True, slots=True)
class Item:
    """A part of a bill, and what it stands for.

    Attributes:
        name: of a phase, a worker or a commit; `run` for what is none's alone.
    """

    name: int | str
    share: PhaseCost
    usd: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values; also the row of a table."""
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
    """What a run used and what it costs.

    Attributes:
        run: its URL.
        platform, channel: that it is billed as; `here` and `there` are those that it ran on.
        functions: how many were started.
        memory_mb: that is billed for each; 0 where memory is not.
        peak_bytes: of the function that needed most memory; 0 where unknown.
        used: exactly what the meters counted.
        phases, workers, commits: parts of the functions' dollars, and of all dollars, which add up to them.
        notes: what is estimated, incomplete or left out.
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

    @property
    def function_seconds(self) -> float:
        """Of all functions."""
        return sum(self.used.lifetimes_s)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
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
            "notes": list(self.notes),
        }


def bill_run(
    run: Run,
    *,
    platform: str | None = None,
    channel: str | None = None,
    transfer: str = "same-region",
    book: PriceBook | None = None,
) -> RunBill:
    """Bill a run.

    Args:
        platform: that the functions are billed as; by default the one they ran on. Their seconds stay as they were.
        channel: that the store is billed as; by default the one it is.
        transfer: how functions reach the store; see `lambdaml.cost.billing.tariff.TRANSFERS`.
        book: by default the packaged prices with the user's own on top.

    Raises:
        SettingsError: there is no such platform, channel or transfer.
        BadObject: an object of the run is damaged.
    """
    usage = run.usage()
    objects = list(run.store.list(""))
    there = channel_of(run.url)
    tariff = Tariff(book or user_book(), channel or there, platform or HERE, transfer=transfer)
    used = quantities(usage, objects)
    bill, found = tariff.bill(used), attribute(run, usage)
    peak = max((each.memory_bytes for each in usage if not each.launcher), default=0)
    second_usd = bill.parts()["functions"] / max(sum(used.lifetimes_s), 1e-9)

    def items(shares: Mapping[int | str, PhaseCost]) -> tuple[Item, ...]:
        own = [Item(n, s, _usd(tariff, s, second_usd)) for n, s in shares.items() if n != SHARED]
        return (*own, Item(SHARED, shares[SHARED], bill.usd - sum(item.usd for item in own)))

    return RunBill(
        run=run.url,
        platform=tariff.platform,
        channel=tariff.channel,
        here=HERE,
        there=there,
        functions=len(used.lifetimes_s),
        memory_mb=tariff.memory_mb,
        peak_bytes=peak,
        used=used,
        bill=bill,
        phases=tuple(Item(n, s, s.seconds * second_usd) for n, s in found.phases.items()),
        workers=items(found.workers),
        commits=items(found.commits),
        notes=(*bill.notes, *_notes(tariff, usage, there, peak, found.phases)),
    )


def quantities(usage: list[Usage], objects: list[ObjectInfo]) -> Quantities:
    """What a run used: exactly what its meters counted, and storage as far as its objects still stand there."""
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
    """The store of the price book that a run's URL stands for; `disk` for those that nobody bills."""
    parsed = StoreURL.parse(url)
    if parsed.scheme == "s3" and "endpoint" not in parsed.params:
        return "s3-express" if parsed.location.partition("/")[0].endswith("--x-s3") else "s3-standard"
    return "disk"


def _usd(tariff: Tariff, share: PhaseCost, second_usd: float) -> float:
    used = Quantities((), share.requests, share.bytes_sent, share.bytes_received)
    parts = tariff.bill(used).parts()
    return share.seconds * second_usd + parts["requests"] + parts["transfer"]


def _notes(tariff: Tariff, usage: list[Usage], there: str, peak: int, phases: Mapping[str, PhaseCost]) -> list[str]:
    notes, functions = [], [each for each in usage if not each.launcher]
    if tariff.platform != HERE:
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
