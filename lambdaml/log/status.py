"""Tells how far a run has come. It takes a few dozen requests, however long the log is."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from lambdaml.log import keys
from lambdaml.log.controls import CHANGEABLE, describe_control, wishes
from lambdaml.log.holders import seem_working
from lambdaml.log.launches import Launch
from lambdaml.log.reader import RunReader
from lambdaml.log.records import Control
from lambdaml.log.retention import snapshots_kept
from lambdaml.log.snapshot import meta_of
from lambdaml.log.stops import ending
from lambdaml.log.tuned import DERIVED


@dataclass(frozen=True, slots=True)
class Status:
    """The status of a run.

    Attributes:
        run: The run's URL.
        state: `running`, `stopped` (it can be resumed), or the way in which it ended.
        version: The newest committed version, in optimizer steps.
        commits: The number of log entries.
        progress: The share of the run that is done; the run is finished at 1.
        schedule: The name of the run's schedule with its arguments, such as `ssp:3`.
        workers: The number of workers; in a run of cohorts, of the slots of a round.
        clients: The number of those who take turns in the slots, in a run of cohorts.
        partition: The way in which samples are dealt to the workers.
        owners_sha256: The digest of the samples' owners; "" if they have none.
        metrics: The newest evaluation, by the metric's name; it is empty before the first.
        metrics_version: The version that `metrics` were evaluated at.
        functions: The functions that seem to be working on the run.
        age_s: The seconds since the last commit was written.
        model: Whether the bucket holds the result.
        init_from: The state that the run began with, as `URL@VERSION`, or None for a fresh model.
        first: The first version that can still be replayed.
        changes: A sentence about each change that was made in mid-run, or asked for.
        reason: The cap that stopped the functions of the newest launch, if one did.
    """

    run: str
    state: str
    version: int
    commits: int
    progress: float
    schedule: str
    workers: int
    clients: int | None = None
    partition: str = "iid"
    owners_sha256: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    metrics_version: int | None = None
    functions: tuple[str, ...] = ()
    age_s: float | None = None
    model: bool = False
    init_from: str | None = None
    first: int = 0
    changes: tuple[str, ...] = ()
    reason: str = ""


def status(run: RunReader) -> Status:
    """Return the status of the run.

    It writes nothing, with one exception: if all leases have run out by this machine's clock, but by so little that the
    clock may be wrong, it asks the store for its time (`lambdaml.log.holders`).
    """
    commits, last, modified = run.tail()
    metrics = run.last_metrics()
    newest = max(metrics, default=None)
    now = max(time.time(), modified or 0.0)
    holders = seem_working(run.store, commits, now)
    stop, settings = last.stop if last else None, run.settings
    launch = None if stop or holders else Launch.newest(run.store)
    return Status(
        run=run.url,
        state=ending(stop.reason) if stop else "running" if holders else "stopped",
        version=last.last_version if last else 0,
        commits=commits,
        progress=last.progress if last else 0.0,
        schedule=settings.schedule,
        workers=settings.workers,
        clients=settings.clients,
        partition=settings.partition,
        owners_sha256=settings.owners_sha256,
        metrics=metrics[newest] if newest is not None else {},
        metrics_version=newest,
        functions=holders,
        age_s=None if modified is None else now - modified,
        model=run.store.head(keys.MODEL) is not None,
        init_from=str(settings.init_from) if settings.init_from is not None else None,
        first=next((keys.number(info.key) for info in snapshots_kept(run.store)), 0),
        changes=tuple(describe_control(change) for change in [*wishes(run.store), *_turned(run)]),
        reason=launch[0].reason() if launch is not None else "",
    )


def _turned(run: RunReader) -> list[Control]:
    """Return the value to which the run's tuner had turned its knob by the newest snapshot, if it had."""
    if run.settings.tune is None:
        return []
    changed = meta_of(run.store, keys.snapshot(run.newest_snapshot()))["log_state"]["changed"]
    return [Control(DERIVED, what, value) for what, value in changed.items() if what not in CHANGEABLE]
