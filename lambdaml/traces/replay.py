"""The replay of a trace computes real gradients along it, under the same or another staleness rule, optimizer or model.

It keeps no old state. It makes versions in order; at each version it computes the gradients of all updates that were
computed from it, and keeps them for the step that applies them. Along the trace of a run, with the run's own job, rule
and settings, this gives the bits of the run. If workers remember something, refused updates are computed, too.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from lambdaml.engines.entry import pick_device
from lambdaml.errors import SettingsError, UserError
from lambdaml.job import Job
from lambdaml.log.commits import build_commit
from lambdaml.log.controls import lost_memories
from lambdaml.log.left_out import LEFT_OUT
from lambdaml.log.memory import Memory
from lambdaml.log.records import DAMAGED, Commit, Control, Entry, Stop, Update
from lambdaml.log.snapshot import State
from lambdaml.options import RunOptions
from lambdaml.schedules import Decision
from lambdaml.schedules.fixed import Fixed
from lambdaml.settings import JobSettings, Settings
from lambdaml.traces import Row, Trace
from lambdaml.training.asked import resolve_job, settings_for
from lambdaml.training.evaluation import evaluate
from lambdaml.training.loading import load_run_job
from lambdaml.training.one_thread import OneThread

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from lambdaml.training.replica import Replica

_SIZES = ("batch_size", "samples", "steps_per_epoch", "parameters")
"""A job that differs from the run's in one of these is another job."""


@dataclass(frozen=True, slots=True)
class TraceReplay:
    """Holds the result of a replay.

    Attributes:
        state: The state at the last version.
        metrics: The job's metrics, by version; the last version is always among them.
        trace: The trace as replayed. Its settings, and the weight, samples and loss of each applied update, are those
            of the replay; all else is unchanged. If the rule discards all updates of a step, the step is not taken, and
            versions and staleness are counted without it.
        fault: Why the replay ended before the trace did: it names the first update that the trace applies and a run
            would have rejected, for instance because its gradient is not finite. "" if the replay did not end early.
    """

    state: State
    metrics: dict[int, dict[str, float]]
    trace: Trace
    fault: str = ""

    @property
    def version(self) -> int:
        """The number of optimizer steps that were taken."""
        return self.state.version

    @property
    def losses(self) -> dict[int, float]:
        """The mean loss over the samples of each optimizer step, by the version that the step makes."""
        sums: dict[int, tuple[float, int]] = {}
        for row in self.trace.rows:
            if row["fate"] == "applied":
                total, samples = sums.get(row["version"], (0.0, 0))
                sums[row["version"]] = total + row["loss"] * row["samples"], samples + row["samples"]
        return {version: total / samples for version, (total, samples) in sums.items()}


def replay_trace(
    trace: Trace,
    job: str | type[Job] | Job | None = None,
    *,
    args: Mapping[str, Any] | None = None,
    staleness: str | None = None,
    optimizer: Callable[[nn.Module], Optimizer] | None = None,
    seed: int | None = None,
    evaluate_every: int | None = None,
    device: str = "cpu",
) -> TraceReplay:
    """Train along a trace: each update is computed from the version, and applied in the step, that the trace says.

    Commits hold the same updates as in the trace, unless the rule discards some; weights, samples and losses are
    computed again. Refused updates stay refused. One thread computes, as in functions.

    Args:
        trace: A trace from `Trace.of(run)`, `Trace.load(path)` or `synthetic_trace`.
        job: The job, as in `train`. The default is the run's own, with the run's arguments; it may be another one.
        args: Keyword arguments of that job's constructor.
        staleness: The rule for stale updates; see `lambdaml.staleness.RULES`. The default is the trace's rule, or
            `constant` if it has none.
        optimizer: A callable that makes the optimizer of a model, in place of `job.optimizer`.
        seed: The seed of the initial model and the order of the data. The default is the trace's seed, or 0 if it has
            none.
        evaluate_every: The number of versions after which the model is evaluated, at the end of a commit. By default
            only the last version is evaluated.
        device: The device to compute on: `cpu`, `cuda`, or `auto`.

    Raises:
        UserError: If the trace has gaps, or one of its updates was computed from a version that did not exist at the
            time.
        SettingsError, JobError: If the job or an option does not fit.
        JobFailed: If the job's own code raised.
    """
    if evaluate_every is not None and evaluate_every < 1:
        raise SettingsError(f"evaluate_every: must be 1 or more (it is {evaluate_every})")
    recorded = trace.settings
    if recorded is not None and recorded.tune is not None:
        raise SettingsError(
            f"this trace is of a run with the tuner {recorded.tune!r}, whose models do not travel along a trace: use "
            "'lambdaml replay' for the run itself"
        )
    if job is not None:
        job_settings, instance = resolve_job(job, dict(args or {}))
    elif recorded is not None:
        job_settings, instance = recorded.job, load_run_job(recorded)
    else:
        raise SettingsError("this trace comes from no run: say which job to replay along it")
    if optimizer is not None:
        instance = copy.copy(instance)
        vars(instance)["optimizer"] = optimizer
    settings = _settings(trace, instance, job_settings, staleness, seed)
    commits = _commits(trace, settings.workers)
    own = (
        optimizer is None
        and recorded is not None
        and all(getattr(settings, name) == getattr(recorded, name) for name in _SIZES)
    )
    with OneThread() as compute:
        return compute.submit(
            _replay, trace, commits, instance, settings, evaluate_every, pick_device(device), own
        ).result()


def _settings(trace: Trace, job: Job, job_settings: JobSettings, staleness: str | None, seed: int | None) -> Settings:
    """Return the trace's settings, with those that depend on the job replaced. For a trace without settings, return
    those that `train` would make."""
    recorded = trace.settings
    if staleness is None:
        staleness = recorded.staleness if recorded else "constant"
    if seed is None:
        seed = recorded.seed if recorded else 0
    steps = 1 + max((row["seq"] for row in trace.rows), default=0)
    algorithm = recorded.algorithm if recorded else "gradient"
    asked = RunOptions(workers=trace.workers, steps=steps, algorithm=algorithm, staleness=staleness, seed=seed)
    planned = settings_for(job, job_settings, asked)
    if recorded is None:
        return planned
    of_the_job = ("job", "batch_size", "samples", "steps_per_epoch", "parameters", "staleness", "seed", "versions")
    return recorded.model_copy(update={name: getattr(planned, name) for name in of_the_job})


@dataclass(frozen=True, slots=True)
class _Commit:
    version: int
    steps: list[list[Row]]
    refused: list[Row]


def _commits(trace: Trace, workers: int) -> list[_Commit]:
    """Cut the trace into commits, each of which can follow those before it.

    Raises:
        UserError: If one cannot.
    """
    commits: list[_Commit] = []
    next_seq, starts, version = [0] * workers, set(), 0
    for number, group in groupby(trace.rows, itemgetter("commit")):
        rows = list(group)
        if number != len(commits):
            raise UserError(f"the trace has a gap: commit {number} stands where {len(commits)} is due")
        starts.add(version)
        for row in sorted(rows, key=_id):
            worker, seq = _id(row)
            if not 0 <= worker < workers:
                raise UserError(f"the trace has an update of worker {worker}, but {workers} workers")
            if seq != next_seq[worker]:
                raise UserError(
                    f"the trace has a gap: commit {number} decides update {seq} of worker {worker}, "
                    f"but {next_seq[worker]} is due"
                )
            next_seq[worker] += 1
            if row["fate"] == "applied" and row["base"] not in starts:
                raise UserError(
                    f"update {seq} of worker {worker} was computed from version {row['base']}, "
                    f"but no commit before number {number} ends with it"
                )
        steps: dict[int, list[Row]] = {}
        for row in rows:
            if row["fate"] == "applied":
                steps.setdefault(row["version"], []).append(row)
        if list(steps) != list(range(version + 1, version + 1 + len(steps))):
            raise UserError(f"the trace has a gap: commit {number} makes versions {list(steps)} after {version}")
        commits.append(_Commit(version, list(steps.values()), [row for row in rows if row["fate"] != "applied"]))
        version += len(steps)
    if trace.meta.get("commits", len(commits)) == len(commits) + 1:
        commits.append(_Commit(version, [], []))  # this commit only stops the run
    return commits


def _replay(
    trace: Trace,
    commits: list[_Commit],
    job: Job,
    settings: Settings,
    evaluate_every: int | None,
    device: str,
    own: bool,
) -> TraceReplay:
    """Replay the commits. `own` says that the job may be the run's, so that changes in mid-run are made again, and
    updates cover the batches that they did."""
    from lambdaml.training.replica import Replica

    replica = Replica(job, settings, device=device)
    stop = Stop(**trace.meta["stop"]) if trace.meta["stop"] else None
    due = _due(trace, commits, replica.parts.remembers)
    changed = {change["commit"]: _control(change) for change in trace.meta["controls"] if own}
    resets = set(lost_memories(changed.values()))
    waiting: dict[tuple[int, int], Update] = {}
    versions: dict[int, int] = {}  # maps the trace's versions to the replay's, where a commit starts
    metrics: dict[int, dict[str, float]] = {}
    done: list[Row] = []
    fault = ""
    for number, planned in enumerate(commits):
        before = versions[planned.version] = replica.version
        for row in due.pop(number, ()):
            if _id(row) in resets:
                replica.memories.host(Memory(*_id(row)), replica.log_state)
            update = _computed(replica, row, own)
            if row["fate"] == "applied":
                waiting[_id(row)] = update
        refused = [{**row, "base": versions.get(row["base"], row["base"])} for row in planned.refused]
        updates = [[waiting.pop(_id(row)) for row in step] for step in planned.steps]
        commit = build_commit(
            replica.log_state,
            Fixed(Decision(updates, [_refused(row) for row in refused])),
            replica.parts.rule,
            (),
            max_rejected=sys.maxsize,
            wish=stop if planned is commits[-1] else None,
            control=changed.get(number),
        )
        assert commit is not None
        rows = {_id(row): row for step in planned.steps for row in step}
        first = next((e for e in commit.refused if e.fate == "rejected" and (e.worker, e.seq) in rows), None)
        if first is not None:
            fault = f"update {first.seq} of worker {first.worker} at version {before}: {first.reason}"
            stop = Stop("diverged")
            break
        replica.apply(commit, {update.id: update for step in updates for update in step})
        done += [*_told(rows, commit), *refused]
        if evaluate_every and replica.version // evaluate_every > before // evaluate_every:
            metrics[replica.version] = evaluate(job, replica.state(), device)
    state = replica.state()
    if replica.version not in metrics:
        metrics[replica.version] = evaluate(job, state, device)
    meta = {
        "settings": settings.model_dump(),
        "stop": asdict(stop) if stop else None,
        "commits": replica.log_state.commit,
    }
    return TraceReplay(state, metrics, Trace(done, trace.meta | meta), fault)


def _due(trace: Trace, commits: list[_Commit], remembers: bool) -> dict[int, list[Row]]:
    """Return the rows to compute before each commit: at the update's base or, if its worker remembers something, at the
    place in the log that it was computed at, since the fates that were known there count."""
    first: dict[int, int] = {}
    for number, planned in enumerate(commits):
        first.setdefault(planned.version, number)
    due: dict[int, list[Row]] = {}
    for row in sorted(trace.rows, key=_id):
        if row["fate"] == "applied" or (remembers and row["reason"] != DAMAGED):
            known = row.get("base_commit")
            due.setdefault(first[row["base"]] if known is None else known, []).append(row)
    return due


def _told(rows: Mapping[tuple[int, int], Row], commit: Commit) -> list[Row]:
    """Return the rows of those updates that the trace applies, with their fates in the replay."""
    told = []
    for version, step in enumerate(commit.steps, commit.version + 1):
        for entry in step:
            told.append({**rows[entry.worker, entry.seq], "version": version, "weight": entry.weight, **_facts(entry)})
    for entry in commit.refused:
        if (entry.worker, entry.seq) in rows:
            refused = {"fate": entry.fate, "reason": entry.reason, "version": None, "weight": None}
            told.append({**rows[entry.worker, entry.seq], **refused, **_facts(entry)})
    return told


def _facts(entry: Entry) -> Row:
    return {name: getattr(entry, name) for name in ("base", "staleness", "samples", "loss")}


def _computed(replica: Replica, row: Row, own: bool) -> Update:
    """Compute an update at the replica's version. It has a body of its own."""
    batches = (row["first_batch"], row["batches"]) if own and row.get("batches") is not None else None
    return replica.update(*_id(row), _generation(row), row["function"] or "", batches)


def _control(change: Mapping[str, Any]) -> Control:
    return Control(change["number"], change["what"], change["value"])


def _refused(row: Row) -> Update:
    """Return a placeholder for an update that no step uses, so that nobody need compute it."""
    fault = (row["reason"] or "rejected") if row["fate"] == "rejected" else ""
    samples, loss = row["samples"] or 0, math.nan if row["loss"] is None else row["loss"]
    known = row["worker"], row["seq"], row["base"], _generation(row), row["function"] or "", samples, loss, ""
    return Update(*known, fault=fault, left_out=row["reason"] == LEFT_OUT)


def _generation(row: Row) -> int:
    return 1 if row["generation"] is None else int(row["generation"])


def _id(row: Row) -> tuple[int, int]:
    return row["worker"], row["seq"]
