"""From a schedule's decision to a commit: fates, staleness, weights, and the end of the run. No input or output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lambdaml.records import Commit, Entry, Stop, Update
from lambdaml.schedules import Schedule
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
    if decision is None:
        ends = wish is not None and not schedule.agreed
        return Commit(view.commit, view.version, (), stop=wish, progress=schedule.progress(view)) if ends else None
    steps: list[tuple[Entry, ...]] = []
    refused: list[Entry] = []
    version = view.version
    for step in decision.steps:
        good = [update for update in step if not _fault(update, view)]
        refused += [_refuse(update, version, "rejected", _fault(update, view)) for update in step if update not in good]
        samples = sum(update.samples for update in good)
        if good:
            steps.append(tuple(_apply(update, version, samples, rule, view) for update in good))
            version += 1
    for update in decision.discarded:
        fault = _fault(update, view)
        refused.append(_refuse(update, version, "rejected" if fault else "discarded", fault or "late"))
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


def _refuse(update: Update, version: int, fate: str, reason: str) -> Entry:
    staleness = version - update.base if update.base >= 0 else 0
    return replace(_entry(update, staleness), fate=fate, reason=reason)  # type: ignore[arg-type]


def _entry(update: Update, staleness: int, weight: float = 0.0) -> Entry:
    return Entry(
        update.worker, update.seq, update.base, update.generation, update.samples, update.loss, staleness, weight
    )


def _fault(update: Update, view: View) -> str:
    if update.fault:
        return update.fault
    if update.generation < view.generation[update.worker]:
        return f"fenced: generation {update.generation} after {view.generation[update.worker]}"
    if update.base > view.version:
        return f"computed from version {update.base}, which does not exist yet"
    return ""
