"""A run in three sentences: what came out, what it took, and what stood in the way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lambdaml.cost.billing.bill import RunBill
from lambdaml.cost.planning.explain import money, rough_duration
from lambdaml.log.status import Status
from lambdaml.log.summary import Summary
from lambdaml.settings import Settings
from lambdaml.traces.attribution import Explained
from lambdaml.traces.lives import FunctionLife
from lambdaml.wording import metrics_text

if TYPE_CHECKING:
    from lambdaml.cost.reporting.report import Evaluation


def verdict(
    settings: Settings,
    state: Status,
    summary: Summary,
    evaluations: Sequence[Evaluation],
    stale: Explained,
    functions: Sequence[FunctionLife],
    billed: RunBill,
) -> tuple[str, str, str]:
    """Return the three sentences. The parameters are the parts of a `RunReport`."""
    return (
        _outcome(settings, state, summary, evaluations),
        _effort(summary, billed),
        _obstacles(summary, stale, functions),
    )


def _outcome(settings: Settings, state: Status, summary: Summary, evaluations: Sequence[Evaluation]) -> str:
    version = summary.stop_version if summary.stop_version is not None else summary.version
    reached = next((one.metrics for one in evaluations if one.point.version == version), None)
    what = {
        "running": "The run is going on",
        "stopped": "The run has stopped and can be resumed",
        "cancelled": "The run was cancelled",
    }.get(state.state, "The run has ended")
    if summary.stop == "target":
        what = f"The run reached its target {settings.target}"
    elif settings.target is not None and summary.stop == "steps":
        what = f"The run made all its steps without reaching its target {settings.target}"
    named = "" if reached is None else f" with {metrics_text(reached)}"
    last = evaluations[-1] if evaluations else None
    if reached is None and last is not None:
        named = f", and had {metrics_text(last.metrics)} at version {last.point.version:,}"
    return f"{what} at version {version:,}{named}."


def _effort(summary: Summary, billed: RunBill) -> str:
    used = billed.used
    counts = f"{summary.updates:,} updates, {sum(used.requests.values()):,} requests"
    functions = f"{billed.functions} function{'s' if billed.functions != 1 else ''}"
    cost = f"costs {money(billed.bill.usd)} on {billed.platform} with {billed.channel}"
    if not billed.bill.usd:
        cost = "costs nothing on this machine"
    return f"It took {rough_duration(used.wall_s)} on {functions}, with {counts}, and {cost}."


def _obstacles(summary: Summary, stale: Explained, functions: Sequence[FunctionLife]) -> str:
    parts = []
    if stale.staleness.max:
        parts.append(f"updates were {stale.staleness.mean:.1f} steps stale on average, {stale.staleness.max} at most")
        if stale.split is not None:
            named = {"the store": stale.split.storage, "computing": stale.split.compute, "waiting": stale.split.wait}
            parts[-1] += f", most of it from {max(named, key=lambda name: named[name])}"
    else:
        parts.append("no update was stale")
    refused = summary.fates["discarded"] + summary.fates["rejected"]
    if refused:
        parts.append(f"{refused:,} of {summary.updates:,} updates were not applied")
    if died := sum(life.died for life in functions):
        parts.append(f"{died} function{'s' if died > 1 else ''} died and {'were' if died > 1 else 'was'} replaced")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."
