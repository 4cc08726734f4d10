"""From a schedule's decision to a commit: fates, staleness, weights, and the end of the run. No input or output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lambdaml.records import Commit, Entry, Fate, Stop, Update
from lambdaml.schedules import Decision, Schedule
from lambdaml.staleness import Rule
from lambdaml.view import View


def draft(
    view: View,
    schedule: Schedule,
    rule: Rule,
    arrived: Sequence[Update],
    *,
    max_rejected: int,
    wish: Stop | None = None,
) -> Commit | None:
    """The commit that follows `view`, or None while the schedule waits.

    The updates of one step are averaged weighted by their samples, which makes the mean over equal workers the
    gradient of the mean loss over all their batches; the staleness rule multiplies that.

    Args:
        max_rejected: the run stops as diverged when this many updates have been rejected.
        wish: a stop that was asked for; it makes this commit the last one. Where the schedule is agreed, the wish
            travels in worker 0's update instead, so that everyone knows it at the same commit.
    """
    decision = schedule.decide(view, arrived)
    if decision is None or not (any(decision.steps) or decision.discarded):
        ends = wish is not None and not schedule.agreed
        return Commit(view.commit, view.version, (), stop=wish, progress=schedule.progress(view)) if ends else None
    steps: list[tuple[Entry, ...]] = []
    refused: list[Entry] = []
    version = view.version
    faults = _faults(decision, view)
    for step in decision.steps:
        good = [update for update in step if not faults[update.id]]
        refused += [_refuse(update, view, "rejected", faults[update.id]) for update in step if faults[update.id]]
        samples = sum(update.samples for update in good)
        if good:
            steps.append(tuple(_apply(update, version, samples, rule, view) for update in good))
            version += 1
    for update in decision.discarded:
        fault = faults[update.id]
        refused.append(_refuse(update, view, "rejected" if fault else "discarded", fault or "late"))
    if schedule.agreed:
        decided = [update for step in decision.steps for update in step] + list(decision.discarded)
        wish = next((update.stop for update in decided if update.stop), None)
    commit = Commit(view.commit, view.version, tuple(steps), tuple(refused))
    after = view.copy()
    after.advance(commit)
    progress = schedule.progress(after)
    if wish is None:
        wish = Stop("diverged") if after.rejected >= max_rejected else Stop("steps") if progress >= 1 else None
    return replace(commit, stop=wish, progress=progress)


def _apply(update: Update, version: int, samples: int, rule: Rule, view: View) -> Entry:
    staleness = version - update.base
    weight = rule.weight(staleness, view) * (update.samples / samples)
    return _entry(update, staleness, weight=weight)


def _refuse(update: Update, view: View, fate: Fate, reason: str) -> Entry:
    staleness = view.version - update.base if update.base >= 0 else 0
    return replace(_entry(update, staleness), fate=fate, reason=reason)


def _entry(update: Update, staleness: int, weight: float = 0.0) -> Entry:
    return Entry(
        update.worker, update.seq, update.base, update.generation, update.samples, update.loss, staleness, weight
    )


def _faults(decision: Decision, view: View) -> dict[tuple[int, int], str]:
    """Why each update must be rejected, or "". A worker's generations must not go back, within a commit either."""
    updates = [update for step in decision.steps for update in step] + list(decision.discarded)
    highest = list(view.generation)
    faults: dict[tuple[int, int], str] = {}
    for update in sorted(updates, key=lambda update: update.id):
        fault = update.fault
        if not fault and update.generation < highest[update.worker]:
            fault = f"fenced: generation {update.generation} after {highest[update.worker]}"
        if not fault and update.base > view.version:
            fault = f"computed from version {update.base}, which does not exist yet"
        if not fault:
            highest[update.worker] = update.generation
        faults[update.id] = fault
    return faults
