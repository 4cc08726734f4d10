"""Reads a run from its bucket: its settings, its log, and what its functions measured and used.

A reader writes nothing and computes nothing. The verbs of a run are functions that take a reader, in files named after
them (`lambdaml.log.status`, `lambdaml.log.gc`, `lambdaml.training.replay`, `lambdaml.training.verify`); `lambdaml.Run`
has them all as methods.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from lambdaml.errors import RunNotFound
from lambdaml.log import keys, wire
from lambdaml.log.holders import last_of
from lambdaml.log.reads import demand_present, read_many, read_now
from lambdaml.log.records import Commit
from lambdaml.log.summary import Summary
from lambdaml.log.trace_parts import meter_reading, unpack_rows
from lambdaml.log.usage import Usage
from lambdaml.settings import Settings
from lambdaml.storage import MeterReading, ObjectInfo, Store, open_store

_BATCH = 256
"""A reader asks for this many log entries at once."""


def read_settings(store: Store) -> Settings:
    """Return the settings of the run in a store.

    Raises:
        RunNotFound: If there is no run at this prefix.
        NewerSchema, BadObject: If run.json cannot be read.
    """
    settings = read_now(store, keys.RUN, Settings.read)
    if settings is None:
        raise RunNotFound(f"there is no run at {store.url}")
    return settings


def metrics_in(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics of an evaluation, as the bucket holds it, in the order in which the job reports them."""
    values = record["metrics"]
    return {name: math.nan if values[name] is None else values[name] for name in record.get("names", values)}


class RunReader:
    """Reads a run, given its URL or a store that is open already.

    Attributes:
        store: The run's prefix of a bucket.
        settings: The run's settings, as run.json has them.

    Raises:
        RunNotFound: If there is no run at this prefix.
        NewerSchema, BadObject: If run.json cannot be read.
    """

    def __init__(self, where: str | Store) -> None:
        self.store = open_store(where) if isinstance(where, str) else where
        self.settings = read_settings(self.store)

    @property
    def url(self) -> str:
        """The run's URL."""
        return self.store.url

    def log(self, start: int = 0) -> Iterator[Commit]:
        """Yield the log's entries from number `start` on, in order, up to the first gap.

        Raises:
            BadObject: If an entry is damaged.
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
        return Summary.of(self.log())

    def tail(self) -> tuple[int, Commit | None, float | None]:
        """Return the number of commits, the last one, and the time at which it was written, by the store's clock.

        The log has no gap, so its end is found by bisection rather than by listing it.
        """
        found = last_of(lambda commit: self.store.head(keys.log(commit)), 0)
        if found is None:
            return 0, None, None
        last, info = found
        return last + 1, demand_present(read_now(self.store, info.key, Commit.read), info.key), info.modified

    def version(self) -> int:
        """Return the newest committed version, in optimizer steps."""
        last = self.tail()[1]
        return last.last_version if last is not None else 0

    def metrics(self) -> dict[int, dict[str, float]]:
        """Return the evaluations so far, by version."""
        return self._metrics([info.key for info in self.store.list(keys.METRICS)])

    def last_metrics(self) -> dict[int, dict[str, float]]:
        """Return the newest evaluation, by its version; the result is empty if there was none."""
        return self._metrics([info.key for info in self.store.list(keys.METRICS)][-1:])

    def _metrics(self, wanted: Sequence[str]) -> dict[int, dict[str, float]]:
        return {
            record["version"]: metrics_in(record)
            for record in read_many(self.store, wanted, wire.load_json)
            if record is not None
        }

    def newest_snapshot(self) -> int:
        """Return the version of the newest snapshot, or 0 if there is none."""
        return max((keys.number(info.key) for info in self.store.list(keys.SNAPSHOTS)), default=0)

    def trace_rows(self, *kinds: str) -> Iterator[tuple[str, ObjectInfo, dict[str, Any]]]:
        """Yield each row of these kinds that a function measured, after the function and the part of its trace.

        Raises:
            BadObject: If a part is damaged.
        """
        infos = list(self.store.list(keys.TRACE))
        parts = read_many(self.store, [info.key for info in infos], unpack_rows)
        for info, rows in zip(infos, parts, strict=True):
            for row in rows or ():
                if row["kind"] in kinds:
                    yield info.key.split("/")[1], info, row

    def requests(self) -> MeterReading:
        """Return the requests that the run's functions made of the store, by their own meters, with times.

        It lacks up to 15 seconds of a killed function's requests, and the requests of the caller. `usage` has all of
        them.
        """
        last = {function: row for function, _, row in self.trace_rows("meter")}
        return sum(map(meter_reading, last.values()), start=MeterReading())

    def usage(self) -> list[Usage]:
        """Return what each function used, and each process that started functions.

        If a function's launcher died before it, the last entry of the function's own trace counts, and `complete` is
        false.

        Raises:
            BadObject: If a record of it is damaged.
        """
        infos = list(self.store.list(keys.USAGE))
        names = [info.key.removeprefix(keys.USAGE).removesuffix(".json") for info in infos]
        found = read_many(self.store, [info.key for info in infos], Usage.read)
        usage = [each for each in found if each is not None]
        parts = {info.key.split("/")[1]: info.key for info in self.store.list(keys.TRACE)}  # the last one of each
        for name in sorted(parts.keys() - set(names)):
            rows = read_now(self.store, parts[name], unpack_rows) or []
            meter = [row for row in rows if row["kind"] == "meter"][-1:]
            usage += [Usage(name, row["seconds"], 0, meter_reading(row), complete=False) for row in meter]
        return usage
