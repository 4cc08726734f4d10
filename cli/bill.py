"""The verb `lambdaml bill`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from lambdaml.cli import _format, _options

if TYPE_CHECKING:
    from lambdaml import RunBill
    from lambdaml.cost.billing.bill import Item

_SHOWN = 32

Transfer = Annotated[
    str,
    typer.Option(
        metavar="WAY", help="How functions reach the store: `same-region`, `cross-region`, `internet`, `nat`."
    ),
]
_Csv = Annotated[
    str | None,
    typer.Option("--csv", metavar="FILE", help="Write phases, workers and commits as CSV to this file; `-` is stdout."),
]


def bill(
    run: _options.Run,
    platform: _options.BilledAs = None,
    store_as: _options.StoreAs = None,
    transfer: Transfer = "same-region",
    prices: _options.Prices = None,
    to_csv: _Csv = None,
    as_json: _options.Json = False,
) -> int:
    """Say what a run used and what that costs, including functions that died and those that replaced them.

    A run on this machine can be billed as if it had run elsewhere; its function-seconds stay the same.
    """
    import lambdaml

    book = lambdaml.prices(*([prices] if prices else []))
    found = lambdaml.bill(run, platform=platform, channel=store_as, transfer=transfer, prices=book)
    if to_csv is not None:
        _write_csv(to_csv, found)
    if as_json:
        _format.print_json(found.to_dict())
    elif to_csv is None:
        _print(found)
    return 0


def _write_csv(target: str, found: RunBill) -> None:
    rows = [
        {"by": by, **item.to_dict()}
        for by, items in (("phase", found.phases), ("worker", found.workers), ("commit", found.commits))
        for item in items
    ]
    _format.write_csv(target, list(rows[0]), rows)


def _print(found: RunBill) -> None:
    _format.print_pairs(_facts(found))
    if found.bill.lines:
        print()
        rows = [
            [line.part, line.what, f"{line.quantity:,.6g}", line.price.unit, f"{line.price.usd:.6g}", _usd(line.usd)]
            for line in found.bill.lines
        ]
        _format.print_table(["for", "what", "quantity", "unit", "a unit", "USD"], rows, left=["for", "what", "unit"])
    if found.functions:
        print()
        _format.print_table(["phase", "seconds", "share", "USD"], _phases(found), left=["phase"])
        print()
        headings = ["worker", "updates", "seconds", "get", "get_miss", "create", "other", "sent", "received", "USD"]
        _format.print_table(headings, map(_worker, _shown(found.workers)))
        print()
        _commits(found)
    print()
    for line in found.bill.lines:
        _format.print_text(f"{line.price.id}: {line.price.origin}", " " * 8, "price   ")
    for note in found.notes:
        _format.print_text(note, " " * 8, "note    ")


def _facts(found: RunBill) -> Iterator[tuple[str, str]]:
    used = found.used
    sent, received = (_format.size(size) for size in (used.bytes_sent, used.bytes_received))
    memory = f" of {found.memory_mb:,} MB" if found.memory_mb else ""
    peak = f", {_format.size(found.peak_bytes)} of memory at most" if found.peak_bytes else ""
    stored = f"{_format.size(used.stored_byte_s / max(used.wall_s, 1e-9))} stored on average"
    parts = ", ".join(f"{name} {_format.usd(usd)}" for name, usd in found.bill.parts().items() if usd)
    yield "run", _format.shown(found.run)
    yield "billed as", f"functions of {_as(found.platform, found.here)}, store {_as(found.channel, found.there)}"
    yield "cost", f"{_format.usd(found.bill.usd)}{f' ({parts})' if parts else ''}"
    yield "functions", f"{found.functions:,}{memory}, {found.function_seconds:,.1f} s together{peak}"
    yield "requests", f"{sum(used.requests.values()):,} ({_format.counts(dict(sorted(used.requests.items())))})"
    yield "bytes", f"{sent} sent, {received} received, {stored}"
    if found.tuning is not None:
        yield "tuning", _tuning(found.tuning)


def _tuning(item: Item) -> str:
    share = item.share
    sent, received = _format.size(share.bytes_sent), _format.size(share.bytes_received)
    return (
        f"{share.requests['create']:,} models travelled, which took {share.requests['get']:,} reads, {sent} sent and {received} "
        f"received: {_format.usd(item.usd)} of it"
    )


def _as(billed: str, really: str) -> str:
    return billed if billed == really else f"{billed} (it was {really})"


def _phases(found: RunBill) -> Iterator[list[str]]:
    whole = max(found.function_seconds, 1e-9)
    for item in found.phases:
        seconds = item.share.seconds
        if seconds:
            yield [str(item.name), f"{seconds:,.2f}", f"{100 * seconds / whole:.1f} %", _usd(item.usd)]


def _shown(items: Sequence[Item]) -> Sequence[Item]:
    """Return the first items, as many as fit, and the last one, which is the rest of the run; JSON and CSV have all."""
    return items if len(items) <= _SHOWN else [*items[: _SHOWN - 1], items[-1]]


def _worker(item: Item) -> list[str]:
    share, requests = item.share, item.share.requests
    kinds = [requests.get(kind, 0) for kind in ("get", "get_miss", "create")]
    counts = [f"{count:,}" for count in (*kinds, sum(requests.values()) - sum(kinds))]
    moved = [_format.size(share.bytes_sent), _format.size(share.bytes_received)]
    return [str(item.name), f"{share.updates:,}", f"{share.seconds:,.2f}", *counts, *moved, _usd(item.usd)]


def _commits(found: RunBill) -> None:
    own = found.commits[:-1]
    if own:
        dearest = max(own, key=lambda item: item.usd)
        mean = sum(item.usd for item in own) / len(own)
        most = f"at most {_usd(dearest.usd)} (commit {dearest.name})"
        beside = _usd(found.commits[-1].usd)
        _format.print_text(
            f"commits {len(own):,}, each USD {_usd(mean)} on average, {most}; the run beside them {beside}"
        )


def _usd(value: float) -> str:
    return f"{value:.6f}"
