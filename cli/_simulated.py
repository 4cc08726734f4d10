"""Prints the result of one simulation on a screen, and of several as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lambdaml.cli import _format

if TYPE_CHECKING:
    from lambdaml.cost.billing.tariff import Bill
    from lambdaml.cost.planning.pattern_choice import PatternChoice
    from lambdaml.simulation import SimulationResult
    from lambdaml.simulation.stub_replica import Costs


def print_result(
    schedule: str,
    result: SimulationResult,
    bill: Bill,
    asked: Mapping[str, Any],
    origin: str,
    choice: PatternChoice | None,
) -> None:
    """Print the result of one simulation.

    Args:
        asked: The options of the simulation.
        origin: The origin of its step times and sizes: `assumed`, `measured` or `given`.
        choice: The pattern that would be chosen for it; None if its links differ, which the formulas do not know.
    """
    _format.print_text(f"{schedule}, {_setting(asked)}")
    best = [] if choice is None else [("best", str(choice))]
    _format.print_pairs([*_summary(result, bill, origin), *best])


def print_sweep(results: Sequence[tuple[str, SimulationResult, Bill]], asked: Mapping[str, Any], origin: str) -> None:
    """Print the results of several simulations, one line each."""
    _format.print_text(_setting(asked))
    _format.print_text(f"{origin}: {costs(results[0][1].costs)}")
    print()
    headings = ["schedule", "time", "USD", "stale", "p95", "applied", "commits", "requests", "busy"]
    _format.print_table(headings, [_row(*one) for one in results], left=["schedule"])


def costs(values: Costs) -> str:
    """Format costs: `gradient 100 ms, encoding 0.5 ms, ...; update 4.0 MB, snapshot 8.0 MB`."""
    return (
        f"gradient {seconds(values.step_s)}, encoding {seconds(values.encode_s)}, "
        f"optimizer step {seconds(values.apply_s)} + {seconds(values.apply_update_s)} an update; "
        f"update {_format.size(values.update_bytes)}, snapshot {_format.size(values.snapshot_bytes)}"
    )


def dollars(bill: Bill) -> dict[str, float]:
    """Return a simulation's bill by kind; transfer is left out if all functions are in the store's region."""
    parts = {name: usd for name, usd in bill.parts().items() if name != "transfer" or usd}
    return {name: round(usd, 9) for name, usd in {**parts, "total": bill.usd}.items()}


def transfers(result: SimulationResult, bill: Bill) -> list[dict[str, Any]]:
    """Return what went from one region to another, and what that costs, one row for each pair of regions."""
    usd = {line.what: line.usd for line in bill.lines if line.part == "transfer"}
    return [
        {"from": out_of, "to": into, "bytes": size_bytes, "usd": round(usd.get(f"{out_of} to {into}", 0.0), 9)}
        for (out_of, into), size_bytes in result.moved.items()
    ]


def seconds(value: float) -> str:
    """Format a short time, such as `0.5 ms`, `100 ms` or `2.5 s`."""
    return f"{value:.3g} s" if value >= 1 or value == 0 else f"{value * 1e3:.3g} ms"


def _setting(asked: Mapping[str, Any]) -> str:
    workers = asked["workers"]
    algorithm = "" if asked["algorithm"] == "gradient" else f", {asked['algorithm']}"
    stragglers = "" if asked["stragglers"] == "none" else f", stragglers {asked['stragglers']}"
    slow = f", slow link {asked['slow_link']}" if asked["slow_link"] else ""
    regions = f" in {asked['regions']}" if asked["regions"] else ""
    bucket = f" in {asked['bucket_region']}" if asked["bucket_region"] else ""
    return (
        f"{workers:,} workers on {asked['functions'] or workers:,} functions of {asked['platform']}{regions}, "
        f"store {asked['channel']}{bucket}{algorithm}{stragglers}{slow}"
    )


def _summary(result: SimulationResult, bill: Bill, origin: str) -> Iterator[tuple[str, str]]:
    run, split = result.run, result.split
    sent, received = (_format.size(run.bytes[way]) for way in ("sent", "received"))
    yield origin, costs(result.costs)
    yield "time", f"{_format.duration(run.seconds)}, modelled"
    kinds = ", ".join(f"{name} {_format.usd(value)}" for name, value in dollars(bill).items() if name != "total")
    yield "cost", f"{_format.usd(bill.usd)}, modelled ({kinds})"
    if run.metrics:
        yield "result", f"{_format.metrics(run.metrics)} at version {run.version:,}"
    yield (
        "updates",
        f"{run.updates:,} ({_format.counts(run.fates)}), {run.samples:,} samples; log entries {result.commits:,}",
    )
    yield "staleness", _format.staleness(run.staleness)
    if split is not None:
        yield "made of", f"storage {split.storage:.3g}, compute {split.compute:.3g}, wait {split.wait:.3g}"
    yield "requests", f"{sum(run.requests.values()):,} ({_format.counts(run.requests)})"
    yield "bytes", f"{sent} sent, {received} received"
    for row in transfers(result, bill):
        yield "transfer", f"{row['from']} to {row['to']}: {_format.size(row['bytes'])}, {_format.usd(row['usd'])}"
    lasted, busy = _format.duration(result.function_seconds), f"{100 * result.utilisation:.1f} %"
    yield "utilisation", f"{busy} of the {lasted} that functions lasted, with {result.invocations:,} starts"
    how = "every request simulated" if result.exact else "requests in closed form"
    yield "simulated", f"in {_format.duration(result.wall_s)}, {how}"


def _row(name: str, result: SimulationResult, bill: Bill) -> list[str]:
    run = result.run
    return [
        name,
        _format.duration(run.seconds),
        f"{bill.usd:.4f}",
        f"{run.staleness.mean:.3g}",
        f"{run.staleness.p95:.0f}",
        f"{run.fates['applied']:,} of {run.updates:,}",
        f"{result.commits:,}",
        f"{sum(run.requests.values()):,}",
        f"{100 * result.utilisation:.1f} %",
    ]
