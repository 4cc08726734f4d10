"""Turns a schedule's decision into a commit: fates, staleness, weights, and the end of the run. It does no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from lambdaml.log.left_out import LEFT_OUT
from lambdaml.log.records import Commit, Control, Entry, Fate, Stop, Update
from lambdaml.log.state import LogState
from lambdaml.log.tuning import Tuning
from lambdaml.schedules import Decision, Schedule, rounds_at_once
from lambdaml.staleness import STALE, Rule


def build_commit(
    log_state: LogState,
    schedule: Schedule,
    rule: Rule,
    arrived: Sequence[Update],
    *,
    max_rejected: int,
    wish: Stop | None = None,
    control: Control | None = None,
    tuning: Tuning | None = None,
) -> Commit | None:
    """Return the commit that follows `log_state`, or None while the schedule waits.

    Entries carry the weights of the staleness rule, which may discard an update instead. `summed` says how the updates
    of a step are summed.

    Args:
        max_rejected: The run stops as diverged when this many of the latest `2 * max_rejected` updates were rejected.
        wish: A stop that was asked for. It makes this commit the last one. Under a deterministic schedule the wish
            travels in worker 0's update instead, so that everyone knows it at the same commit.
        control: A change that was asked for. Under a deterministic schedule it travels in worker 0's update, too.
        tuning: The run's tuning, if it has one; the change that it makes follows the one that was asked for.
    """
    decision = schedule.decide(log_state, arrived)
    if decision is None or not (any(decision.steps) or decision.discarded):
        ends = wish is not None and not schedule.deterministic
        return (
            Commit(log_state.commit, log_state.version, (), stop=wish, progress=schedule.progress(log_state))
            if ends
            else None
        )
    steps: list[tuple[Entry, ...]] = []
    refused: list[Entry] = []
    version = log_state.version
    rounds = rounds_at_once(schedule) > 0
    faults = {update.id: update.fault for update in _decided(decision)} if rounds else _faults(decision, log_state)
    for step in decision.steps:
        refused += [_refuse(update, log_state, "rejected", faults[update.id]) for update in step if faults[update.id]]
        judged = [_judge(update, version, rule, log_state) for update in step if not faults[update.id]]
        refused += [entry for entry in judged if entry.fate != "applied"]
        used = [entry for entry in judged if entry.fate == "applied"]
        if used or rounds:
            steps.append(tuple(used))
            version += 1
    for update in decision.discarded:
        fault = faults[update.id]
        late = LEFT_OUT if update.left_out else "late"
        refused.append(_refuse(update, log_state, "rejected" if fault else "discarded", fault or late))
    if schedule.deterministic:
        decided = _decided(decision)
        wish = next((update.stop for update in decided if update.stop), None)
        control = next((update.control for update in decided if update.control), None)
    due = control is not None and control.number == log_state.controls
    tuned, turned = tuning.account(log_state, _decided(decision)) if tuning is not None else (None, None)
    controls = tuple(change for change in (control if due else None, turned) if change is not None)
    commit = Commit(log_state.commit, log_state.version, tuple(steps), tuple(refused), controls=controls, tuned=tuned)
    after = log_state.copy()
    after.advance(commit)
    progress = schedule.progress(after)
    if wish is None:
        diverged = after.rejected_lately(2 * max_rejected) >= max_rejected
        wish = Stop("diverged") if diverged else Stop("steps") if progress >= 1 else None
    return replace(commit, stop=wish, progress=progress)


def step_entries(log_state: LogState, rule: Rule, updates: Sequence[Update]) -> list[Entry]:
    """Return the entries that `build_commit` gives these updates, if the next commit is one step on them and others."""
    faults = _faults(Decision([list(updates)], []), log_state)
    return [
        _refuse(update, log_state, "rejected", faults[update.id])
        if faults[update.id]
        else _judge(update, log_state.version, rule, log_state)
        for update in updates
    ]


def averaged(commit: int, version: int, updates: Sequence[Update]) -> Commit:
    """Return a commit of one optimizer step on the mean of these updates over their samples.

    No staleness rule applies: each update has weight 1, however stale it is.
    """
    entries = (replace(_entry(update, version - update.base), weight=1.0) for update in updates)
    return Commit(commit, version, (tuple(entries),))


def summed(step: Sequence[Entry], nominal: int, sums: bool = False) -> tuple[list[float], float]:
    """Return the factor of each vector in a step's sum, and the divisor of the whole sum.

    The terms of the sum are rule weight x (samples / nominal) x gradient. So partial sums over some of the updates add
    up, whoever takes them, and whoever ends the sum divides once by the sum of samples / nominal. For equal workers the
    result is the gradient of the mean loss over all their batches. A single update is neither scaled by its samples nor
    divided.

    Args:
        nominal: The number of samples that has the factor 1; see `lambdaml.algorithms.Algorithm.nominal`.
        sums: Whether each vector is a sum of (samples / nominal) x gradient already. Such a one is divided even if it is
            alone.
    """
    divisor = sum(entry.samples for entry in step) / nominal
    if sums:
        return [entry.weight for entry in step], divisor
    if len(step) == 1:
        return [step[0].weight], 1.0
    return [entry.weight * (entry.samples / nominal) for entry in step], divisor


def shares(step: Sequence[Entry]) -> list[float]:
    """Return the weight of each update in its step's mean: the rule's weight times its share of the samples."""
    samples = sum(entry.samples for entry in step)
    return [entry.weight * (entry.samples / samples) for entry in step]


def decision_of(commit: Commit, updates: Mapping[tuple[int, int], Update]) -> Decision:
    """Return a decision from which `build_commit` makes this commit again.

    An update that the rule discarded, or whose client was left out, is put in the place that it would have had.
    """
    steps = [[updates[entry.worker, entry.seq] for entry in step] for step in commit.steps]
    before: dict[int, list[Update]] = {}
    others: list[Update] = []
    for entry in commit.refused:
        update, place = updates[entry.worker, entry.seq], entry.base + entry.staleness - commit.version
        if entry.fate == "discarded" and entry.reason in (STALE, LEFT_OUT) and 0 <= place <= len(steps):
            before.setdefault(place, []).append(update)
        else:
            others.append(update)
    ordered = []
    for place in range(len(steps) + 1):
        ordered += [[update] for update in before.get(place, [])] + steps[place : place + 1]
    return Decision(ordered, others)


def _judge(update: Update, version: int, rule: Rule, log_state: LogState) -> Entry:
    """Apply the rule to an update: the entry says "applied" with a weight, or "discarded"."""
    entry = _entry(update, version - update.base)
    if update.labels or update.residuals:
        entry = replace(entry, labels=update.labels, residuals=update.residuals)
    weight = None if update.left_out else rule.judge(entry, log_state)
    if weight is None:
        reason = LEFT_OUT if update.left_out else STALE
        return replace(entry, fate="discarded", reason=reason, labels=(), residuals=())
    return replace(entry, weight=weight)


def _refuse(update: Update, log_state: LogState, fate: Fate, reason: str) -> Entry:
    staleness = max(0, log_state.version - update.base) if update.base >= 0 else 0
    return replace(_entry(update, staleness), fate=fate, reason=reason)


def _entry(update: Update, staleness: int) -> Entry:
    return Entry(update.worker, update.seq, update.base, update.generation, update.samples, update.loss, staleness)


def _decided(decision: Decision) -> list[Update]:
    return [update for step in decision.steps for update in step] + list(decision.discarded)


def _faults(decision: Decision, log_state: LogState) -> dict[tuple[int, int], str]:
    """Return why each update must be rejected, or "". A worker's generation must not decrease, even within a commit.

    Where workers have models of their own this is no matter: whoever made an update, others have averaged it.
    """
    highest = list(log_state.generation)
    faults: dict[tuple[int, int], str] = {}
    for update in sorted(_decided(decision), key=lambda update: update.id):
        fault = update.fault
        if not fault and update.generation < highest[update.worker]:
            fault = f"fenced: generation {update.generation} after {highest[update.worker]}"
        if not fault and update.base_commit > log_state.commit:
            fault = f"computed after commit {update.base_commit}, which does not exist yet"
        if not fault and update.base > log_state.version:
            fault = f"computed from version {update.base}, which does not exist yet"
        if not fault:
            highest[update.worker] = update.generation
        faults[update.id] = fault
    return faults
