"""`verify` checks a run's promises with nothing but its bucket.

The log has no gap; every published update has exactly one fate; the log says the same about each update as the update
itself; weights are those of the run's rule; a replay reproduces every sum that functions shared, every digest, every
snapshot and the result, bit for bit. A deep check (`lambdaml.training.deep`) also computes a sample of the updates again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lambdaml.algorithms import Assignment
from lambdaml.errors import BadObject, LambdaMLError, SettingsError
from lambdaml.job import Job
from lambdaml.log import keys
from lambdaml.log.commits import build_commit, decision_of
from lambdaml.log.controls import describe_control, wishes
from lambdaml.log.left_out import leaves_out
from lambdaml.log.reader import RunReader
from lambdaml.log.reads import read_now
from lambdaml.log.records import DAMAGED, Commit, Control, Update
from lambdaml.log.retention import snapshots_kept
from lambdaml.log.snapshot import State, read_state
from lambdaml.log.state import LogState
from lambdaml.log.tuned import DERIVED
from lambdaml.schedules import rounds_at_once
from lambdaml.schedules.fixed import Fixed
from lambdaml.storage import Bytes
from lambdaml.training import numerics
from lambdaml.training.deep import DeepCheck, Told
from lambdaml.training.deep_alone import AloneCheck
from lambdaml.training.one_thread import OneThread
from lambdaml.training.replay import commits_from, replica_at
from lambdaml.training.shared_sums import SharedSums

if TYPE_CHECKING:
    from lambdaml.training.replica import Replica


@dataclass(slots=True)
class Report:
    """Says what was checked, and what was found. `faults` is empty for a run that keeps its promises.

    Attributes:
        commits: The number of log entries up to the last that was replayed.
        updates: The number of updates that have a fate.
        pending: The number of updates that have no fate yet.
        digests: The number of digests that were compared.
        snapshots: The number of snapshots that were compared.
        sums: The number of sums and models that functions took over from each other and that were compared.
        version: The last version of the replay.
        first: The version that the check begins at; the history before it was deleted.
        model: Whether the run has a result, which was checked.
        recomputed: The number of updates that a deep check computed again.
        unchecked: The number of chosen updates that it could not compute: what they were computed from is deleted, not
            in the log, or lost.
        memories: The number of memory objects that it compared.
        controls: A sentence about each change in mid-run, such as a memory that began anew.
        faults: A sentence about each broken promise.
        unproven: A sentence that says how many states differ from a replay that this process computed in another
            numerics class than the run's, and how the classes differ. This is no fault of the run.
    """

    commits: int = 0
    updates: int = 0
    pending: int = 0
    digests: int = 0
    snapshots: int = 0
    sums: int = 0
    version: int = 0
    first: int = 0
    model: bool = False
    recomputed: int = 0
    unchecked: int = 0
    memories: int = 0
    controls: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    unproven: str = ""

    @property
    def ok(self) -> bool:
        """Whether the check found no fault and left nothing unproven."""
        return not self.faults and not self.unproven


def verify(
    run: RunReader,
    progress: Told = lambda done, total: None,
    job: Job | None = None,
    deep: float | None = None,
    computing: Told = lambda done, total: None,
) -> Report:
    """Check everything, from the earliest snapshot that is kept.

    Args:
        run: The run.
        progress: A callable that is called with the number of commits that were checked, and the number of all.
        job: The run's job, if it was given as an instance and cannot be imported.
        deep: The share of the updates that is also computed again, in (0, 1]; None for none of them.
        computing: A callable that is called with the number of updates that were computed again, and the number of all
            that will be.

    Raises:
        SettingsError: If the share is out of range.
    """
    if deep is not None and not 0 < deep <= 1:
        raise SettingsError(f"deep: must be more than 0 and at most 1 (it is {deep})")
    numerics.prepare_for(run.settings.numerics)
    with OneThread() as compute:
        return compute.submit(_verify, run, job, progress, deep, computing).result()


def _verify(run: RunReader, job: Job | None, progress: Told, deep: float | None, computing: Told) -> Report:
    report = Report()
    try:
        numbers = [keys.number(info.key) for info in run.store.list(keys.LOG)]
        if numbers != list(range(len(numbers))):
            gap = next(expected for expected, number in enumerate(numbers) if expected != number)
            report.faults.append(f"the log has a gap: {keys.log(gap)} is missing")
            return report
        _check_fates(run, report, _check_replay(run, job, report, len(numbers), progress, deep, computing))
    except LambdaMLError as error:
        report.faults.append(str(error))
    return report


def _check_replay(
    run: RunReader,
    job: Job | None,
    report: Report,
    total: int,
    progress: Told,
    deep: float | None,
    computing: Told,
) -> list[int] | None:
    """Check the log against a replay. Return how many updates of each worker had their fate when the history that is
    kept begins; None if the run has no snapshot."""
    snapshots = [keys.number(info.key) for info in snapshots_kept(run.store)]
    if not snapshots:
        report.faults.append("the run has no snapshot")
        return None
    replica = replica_at(run, snapshots[0], job)
    report.first, begin = snapshots[0], list(replica.log_state.next_seq)
    deeper: DeepCheck | AloneCheck | None = None
    if deep is not None and replica.own is None:
        deeper = DeepCheck(run, deep, snapshots, total, replica.parts.remembers)
    elif deep is not None:
        deeper = AloneCheck(run, deep, replica.parts.remembers)
    # Commits that take no step leave the version as it is, so a version may have several states.
    states: dict[int, set[str]] = {replica.version: {replica.state().digest()}}
    digests: dict[int, str] = {}
    unchecked = {}
    shared, differ = SharedSums(run, replica), list[str]()
    for commit, updates in commits_from(run, replica.log_state.commit):
        if deeper is not None:
            deeper.note(updates.values())
        _check_commit(run, replica, commit, updates, report)
        differ += shared.before(commit, updates)
        replica.apply(commit, updates)
        differ += shared.after(commit)
        report.commits = commit.commit + 1
        wanted = replica.version in snapshots
        if wanted:
            sha256 = digests[replica.log_state.commit] = replica.state().digest()
            states.setdefault(replica.version, set()).add(sha256)
        claims = [(update.digest, f"update {update.id}") for update in updates.values() if update.digest]
        for digest, where in [*claims, (commit.digest, keys.log(commit.commit))]:
            if digest:
                unchecked[digest.commits, digest.sha256] = where
        progress(report.commits, total)
    report.version, report.sums = replica.version, shared.checked
    differ += _differing(unchecked, digests, report) + _check_snapshots(run, replica, states, snapshots, report)
    if deeper is not None:
        found = deeper.check(replica, replica.log_state.next_seq, computing)
        report.recomputed, report.unchecked, report.memories = found.recomputed, found.unchecked, found.memories
        differ += found.differ
    why = numerics.differences(run.settings.numerics) if differ else ""
    if why:
        report.unproven = f"{len(differ)} objects differ from what comes out here, in another numerics class: {why}"
    else:
        report.faults += differ
    return begin


def _differing(claimed: dict[tuple[int, str], str], digests: dict[int, str], report: Report) -> list[str]:
    """Compare digests that updates and log entries claim with those of the replay. Return a sentence about each that
    differs."""
    differ = []
    for (commits, sha256), where in claimed.items():
        if commits in digests:
            report.digests += 1
            if sha256 != digests[commits]:
                differ.append(f"{where} claims another state after {commits} commits than the replay")
    return differ


def _check_commit(
    run: RunReader, replica: Replica, commit: Commit, updates: dict[tuple[int, int], Update], report: Report
) -> None:
    """Check the log's account of each applied update against the update itself, and against the rule."""
    settings, where = run.settings, keys.log(commit.commit)
    for update in updates.values():
        update.fault = update.fault or replica.check(update)
    for update in updates.values():
        _check_batches(replica, update, report)
        client = replica.sampler.share(*update.id).number
        if update.fault != DAMAGED and update.left_out != leaves_out(settings, replica.log_state, client):
            kept = "leaves out" if update.left_out else "holds the update of"
            report.faults.append(
                f"{keys.update(*update.id)} {kept} client {client}, which the settings and the log do not"
            )
    for entry in commit.applied:
        fault = updates[entry.worker, entry.seq].fault
        if fault:
            report.faults.append(
                f"{where} applies {keys.update(entry.worker, entry.seq)}, which must be rejected: {fault}"
            )
    if not commit.entries:
        return
    again = build_commit(
        replica.log_state.copy(),
        Fixed(decision_of(commit, updates), rounds_at_once(replica.parts.schedule)),
        replica.parts.rule,
        (),
        max_rejected=settings.max_rejected,
        tuning=replica.travels.tuning if replica.travels is not None else None,
    )
    assert again is not None
    if _account(again) != _account(commit):
        report.faults.append(f"{where} does not say of its updates what they say of themselves")
    if (again.tuned, _turns(again)) != (commit.tuned, _turns(commit)):
        report.faults.append(f"{where} does not tune the run as its updates say")
    order = [[entry.worker for entry in step] for step in commit.steps]
    if replica.parts.schedule.deterministic and any(step != sorted(step) for step in order):
        report.faults.append(f"{where} sums its updates in another order than by worker")


def _check_batches(replica: Replica, update: Update, report: Report) -> None:
    """Check that an update covers as many batches as the run's tuner has decided, if it decides that."""
    if replica.travels is None or update.fault == DAMAGED:
        return
    due = replica.travels.tuning.assign(replica.log_state, Assignment(*update.id, 0, 0))
    if due.batches and update.batches != (due.first_batch, due.batches):
        report.faults.append(f"{keys.update(*update.id)} covers other batches than the log has decided")


def _check_snapshots(
    run: RunReader, replica: Replica, states: dict[int, set[str]], snapshots: list[int], report: Report
) -> list[str]:
    """Check the snapshots and the result. Return a sentence about each snapshot that differs from the replay."""
    differ = []
    for version in snapshots:
        state = read_now(run.store, keys.snapshot(version), State.load)
        if state is None or version not in states:
            report.faults.append(f"{keys.snapshot(version)} is of a version that the log does not make")
            continue
        report.snapshots += 1
        if state.digest() not in states[version]:
            differ.append(f"{keys.snapshot(version)} differs from the replay")
    stop = replica.log_state.stop
    _check_model(run, replica.version if stop is None or stop.version is None else stop.version, report)
    return differ


def _check_model(run: RunReader, version: int, report: Report) -> None:
    """Check the result, if the run has one, against the snapshot of its version."""
    model = run.store.get(keys.MODEL)
    if model is None:
        return
    report.model = True
    state = read_state(run.store, keys.snapshot(version))

    def compare(data: Bytes, key: str) -> None:
        if state is None or state.dump_model() != bytes(data):
            raise BadObject(f"{key} is not the model of version {version}")

    try:
        read_now(run.store, keys.MODEL, compare, model)
    except BadObject as error:
        report.faults.append(str(error))


def _check_fates(run: RunReader, report: Report, begin: list[int] | None) -> None:
    """Check that every published update has exactly one fate; a run that goes on, or was stopped, may have some
    pending. Check also that each change in mid-run was asked for."""
    asked = {wish.number: wish for wish in wishes(run.store)}
    report.controls = [describe_control(wish) for _, wish in sorted(asked.items())]
    decided: set[tuple[int, int]] = set()
    log_state, turned = LogState(run.settings.workers, run.settings.steps), list[Control]()
    for commit in run.log():
        turned += _turns(commit)
        for entry in commit.entries:
            if (entry.worker, entry.seq) in decided:
                report.faults.append(f"update {entry.seq} of worker {entry.worker} has two fates")
            decided.add((entry.worker, entry.seq))
        for control in commit.controls:
            if control.number != DERIVED and asked.get(control.number) != control:
                report.faults.append(f"{keys.log(commit.commit)} changes {control.what!r}, which nobody asked for")
        log_state.advance(commit)
    if turned:
        report.controls.append(f"{describe_control(turned[-1])} after {len(turned)} changes")
    published = {keys.update_id(info.key) for info in run.store.list(keys.UPDATES)}
    report.updates = len(decided)
    report.pending = len(published - decided)
    kept = {(worker, seq) for worker, seq in decided if begin and seq >= begin[worker]}
    for worker, seq in sorted(kept - published):
        report.faults.append(f"{keys.update(worker, seq)} has a fate but does not exist")


def _turns(commit: Commit) -> list[Control]:
    """Return the changes that a commit says the run's tuner made."""
    return [control for control in commit.controls if control.number == DERIVED]


def _account(commit: Commit) -> tuple[object, ...]:
    steps = [[entry.dump() for entry in step] for step in commit.steps]
    return steps, sorted(entry.dump() for entry in commit.refused)
