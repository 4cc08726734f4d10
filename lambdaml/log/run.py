"""A run, as it stands in its bucket: what anybody can read, check and do with it, without the functions' help."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from lambdaml.errors import RunNotFound, SettingsError, UserError
from lambdaml.log import keys, wire
from lambdaml.log.holders import last_of, seem_working, working
from lambdaml.log.reads import demand_present, read_many, read_now, read_twice
from lambdaml.log.records import Commit
from lambdaml.log.retention import Horizon, garbage, pin_version, snapshots_kept, unpin_version
from lambdaml.log.stops import request_stop
from lambdaml.log.summary import Staleness, Summary
from lambdaml.log.trace_parts import read_parts, unpack_rows
from lambdaml.log.usage import Usage
from lambdaml.settings import Settings
from lambdaml.storage import MeterReading, ObjectInfo, Store, open_store
from lambdaml.storage.probe import store_time

if TYPE_CHECKING:
    from torch import nn

    from lambdaml.job import Job
    from lambdaml.log.snapshot import State
    from lambdaml.log.verify import Report

_BATCH = 256
"""Log entries that are asked for at once."""


@dataclass(frozen=True, slots=True)
class Status:
    """Where a run stands. `state` is `running`, `stopped` (it can be resumed), or how it ended. Versions before `first` can
    no longer be replayed."""

    run: str
    state: str
    version: int
    commits: int
    progress: float
    schedule: str
    workers: int
    metrics: dict[str, float] = field(default_factory=dict)
    metrics_version: int | None = None
    functions: tuple[str, ...] = ()
    age_s: float | None = None
    model: bool = False
    init_from: str | None = None
    first: int = 0


class Run:
    """A run by its URL, or by a store that is open already.

    Args:
        job: the run's job, where it was given as an instance and cannot be imported.

    Raises:
        RunNotFound: there is no run at this prefix.
        NewerSchema, BadObject: run.json cannot be read.
    """

    def __init__(self, where: str | Store, job: Job | None = None) -> None:
        self._job = job
        self.store = open_store(where) if isinstance(where, str) else where
        settings = read_now(self.store, keys.RUN, Settings.read)
        if settings is None:
            raise RunNotFound(f"there is no run at {self.store.url}")
        self.settings = settings

    def job(self) -> Job:
        """The run's job.

        Raises:
            JobError: it cannot be imported, or its code has changed.
        """
        from lambdaml.engines.entry import load_run_job

        return self._job or load_run_job(self.settings)

    @property
    def url(self) -> str:
        return self.store.url

    def log(self, start: int = 0) -> Iterator[Commit]:
        """The log's entries from number `start` on, in order, as far as there is no gap.

        Raises:
            BadObject: an entry is damaged.
        """
        listed = self.store.list(keys.LOG, after=keys.log(start - 1) if start else "")
        there = (info.key for number, info in enumerate(listed, start) if info.key == keys.log(number))
        while batch := list(islice(there, _BATCH)):
            for commit in read_many(self.store, batch, Commit.read):
                if commit is None:
                    return
                yield commit

    def summary(self) -> Summary:
        """Read the whole log and add it up."""
        fates = {"applied": 0, "discarded": 0, "rejected": 0}
        staleness: list[int] = []
        commits = version = samples = 0
        stop = None
        for commit in self.log():
            commits, version, stop = commits + 1, commit.last_version, commit.stop
            for entry in commit.entries:
                fates[entry.fate] += 1
            staleness += [entry.staleness for entry in commit.applied]
            samples += sum(entry.samples for entry in commit.applied)
        return Summary(
            commits,
            version,
            sum(fates.values()),
            samples,
            fates,
            Staleness.of(staleness),
            stop.reason if stop else None,
            stop.version if stop and stop.version is not None else version if stop else None,
        )

    def metrics(self) -> dict[int, dict[str, float]]:
        """The evaluations so far, by version."""
        return self._metrics([info.key for info in self.store.list(keys.METRICS)])

    def _metrics(self, wanted: list[str]) -> dict[int, dict[str, float]]:
        return {
            record["version"]: {name: math.nan if value is None else value for name, value in record["metrics"].items()}
            for record in read_many(self.store, wanted, wire.load_json)
            if record is not None
        }

    def status(self) -> Status:
        """Where the run stands; a few dozen requests, however long the log.

        Nothing is written, unless all leases have run out by this machine's clock, but by so little that it may be off:
        then the store is asked for its time (`lambdaml.log.holders`).
        """
        commits, last, modified = self.tail()
        metrics = self._metrics([info.key for info in self.store.list(keys.METRICS)][-1:])
        newest = max(metrics, default=None)
        now = max(time.time(), modified or 0.0)
        holders = seem_working(self.store, commits, now)
        stop = last.stop if last else None
        version = last.last_version if last else 0
        ended = {"steps": "finished", "target": "reached its target"}
        return Status(
            run=self.url,
            state=ended.get(stop.reason, stop.reason) if stop else "running" if holders else "stopped",
            version=version,
            commits=commits,
            progress=last.progress if last else 0.0,
            schedule=self.settings.schedule,
            workers=self.settings.workers,
            metrics=metrics[newest] if newest is not None else {},
            metrics_version=newest,
            functions=holders,
            age_s=None if modified is None else now - modified,
            model=self.store.head(keys.MODEL) is not None,
            init_from=str(self.settings.init_from) if self.settings.init_from is not None else None,
            first=next((keys.number(info.key) for info in snapshots_kept(self.store)), 0),
        )

    def tail(self) -> tuple[int, Commit | None, float | None]:
        """How many commits there are, the last one, and when it was written by the store's clock.

        The log has no gap, so its end is found by bisection rather than by listing it.
        """
        found = last_of(lambda commit: self.store.head(keys.log(commit)), 0)
        if found is None:
            return 0, None, None
        last, info = found
        return last + 1, demand_present(read_now(self.store, info.key, Commit.read), info.key), info.modified

    def newest_snapshot(self) -> int:
        """The version of the newest snapshot; 0 if there is none."""
        return max((keys.number(info.key) for info in self.store.list(keys.SNAPSHOTS)), default=0)

    def trace(self) -> list[dict[str, Any]]:
        """One row per update that has a fate, in the order of the log; columns as in `lambdaml.traces`.

        Each row joins what the log says with what the function that published the update measured, and says where its
        staleness comes from (`lambdaml.traces.attribution`). A function that was killed takes at most its last 15 seconds of
        measurements with it: there the phases are missing.
        """
        from lambdaml.traces.attribution import Measured, join

        measured = Measured()
        for info, row in self._trace_rows("update", "function", "clock", "arrivals"):
            measured.add(row, info.key.split("/")[1], info.modified)
        return join(list(self.log()), measured, logged=self._logged())

    def _logged(self) -> bool:
        """Whether functions follow the log; False, too, where the schedule is not known here."""
        from lambdaml.schedules import SCHEDULES

        try:
            return not SCHEDULES.make(self.settings.schedule).deterministic
        except UserError:
            return False

    def requests(self) -> MeterReading:
        """What the run's functions asked of the store, by their own meters, with times.

        Up to 15 seconds of a killed function's requests are not in it, nor is what the caller asks for; `usage` has
        all of them.
        """
        last: dict[str, dict[str, Any]] = {}
        for info, row in self._trace_rows("meter"):
            last[info.key.split("/")[1]] = row
        return sum((_reading(row) for row in last.values()), start=MeterReading())

    def usage(self) -> list[Usage]:
        """What each function used, and each process that started functions.

        Of functions that the latter did not survive, the last entry of their own trace counts; `complete` is false.

        Raises:
            BadObject: a record of it is damaged.
        """
        infos = list(self.store.list(keys.USAGE))
        names = [info.key.removeprefix(keys.USAGE).removesuffix(".json") for info in infos]
        found = read_many(self.store, [info.key for info in infos], Usage.read)
        usage = [each for each in found if each is not None]
        parts = {info.key.split("/")[1]: info.key for info in self.store.list(keys.TRACE)}  # the last one of each
        for name in sorted(parts.keys() - set(names)):
            rows = read_now(self.store, parts[name], unpack_rows) or []
            meter = [row for row in rows if row["kind"] == "meter"][-1:]
            usage += [Usage(name, row["seconds"], 0, _reading(row), complete=False) for row in meter]
        return usage

    def _trace_rows(self, *kinds: str) -> Iterator[tuple[ObjectInfo, dict[str, Any]]]:
        for info, rows in read_parts(self.store):
            for row in rows:
                if row["kind"] in kinds:
                    yield info, row

    def replay(self, version: int | None = None) -> State:
        """Rebuild the state at a version from the nearest earlier snapshot and the log; by default the last one.

        Raises:
            OtherNumerics: the run promises bits, and this process would compute others.
            SettingsError: the run has no such version.
            JobError: the job cannot be imported, or its code has changed.
        """
        from lambdaml.log.replay import replay
        from lambdaml.training import numerics

        numerics.prepare_for(self.settings.numerics)
        numerics.demand(self.settings.numerics)
        return replay(self, version)

    def model(self, version: int | None = None) -> nn.Module:
        """The job's model with the run's result in it, or with the weights of any version, in `eval()` mode.

        In a process of another numerics class than the run's, the last bits of those weights may be others.

        Raises:
            RunNotFound: the run has no result yet, and no version was asked for.
        """
        from lambdaml.log.snapshot import read_model

        module = self.job().model()
        if version is None:
            data = read_twice(self.store, keys.MODEL)
            if data is None:
                raise RunNotFound(f"{self.url} has no result yet; ask for a version, or resume the run")
            read_model(data).load_into(module)
        else:
            from lambdaml.log.replay import replay

            replay(self, version).load_into(module)
        return module.eval()

    def verify(self) -> Report:
        """Check every promise that can be checked from the bucket; see `lambdaml.log.verify`."""
        from lambdaml.log.verify import verify

        return verify(self)

    def cancel(self) -> None:
        """Ask the functions to end the run. They heed it within seconds; it cannot be resumed."""
        request_stop(self.store, "cancelled")

    def gc(self) -> int:
        """Delete what the run's newest snapshot has made unnecessary; returns how many objects.

        Snapshots before the result's, before the newest and before what is pinned go, and the updates that have their
        fate before the earliest one kept. The log, the metrics, the trace and the usage stay. Versions before that
        snapshot can no longer be replayed.

        Raises:
            SettingsError: functions work on the run, by the store's clock; they may still need what would be deleted.
        """
        holders = working(self.store, self.tail()[0], store_time(self.store))
        if holders:
            raise SettingsError(f"{self.url} is being trained by {', '.join(holders)}: wait for its end, or cancel it")
        found = self.garbage()
        if found is None:
            return 0
        horizon, doomed = found
        self.store.create(keys.horizon(horizon.commit), horizon.dump())
        self.store.delete(doomed)
        return len(doomed)

    def garbage(self) -> tuple[Horizon, list[str]] | None:
        """What `gc` would delete; see `lambdaml.log.retention.garbage`."""
        stop = next((commit.stop for commit in self.log() if commit.stop), None)
        return garbage(self.store, stop.version if stop else None)

    def pin(self, version: int, name: str) -> None:
        """Keep the history from a version on, whatever the run's bound on it says, until `unpin_version`.

        Args:
            name: of the reader; each has one pin.

        Raises:
            SettingsError: that version is deleted already, or the name is no part of a key.
        """
        pin_version(self.store, name, version)

    def unpin(self, name: str) -> None:
        """Take a pin away."""
        unpin_version(self.store, name)


def _reading(row: Mapping[str, Any]) -> MeterReading:
    """What a `meter` row of a trace says."""
    return MeterReading.from_dict({key: value for key, value in row.items() if key not in ("kind", "seconds")})


def to_dict(record: Any) -> dict[str, Any]:
    """A record of this module as plain values, for JSON."""
    return asdict(record)
