"""A run, as anybody reads it from its bucket: its settings, its log, and what its functions measured and used.

A reader writes nothing and computes nothing. What can be done with a run stands in files named after the verbs
(`lambdaml.log.status`, `lambdaml.log.gc`, `lambdaml.training.replay`, `lambdaml.training.verify`), as functions of a
reader; `lambdaml.Run` has them all as methods.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
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
"""How many log entries are asked for at once."""


def read_settings(store: Store) -> Settings:
    """The settings of the run at a store.

    Raises:
        RunNotFound: there is no run at this prefix.
        NewerSchema, BadObject: run.json cannot be read.
    """
    settings = read_now(store, keys.RUN, Settings.read)
    if settings is None:
        raise RunNotFound(f"there is no run at {store.url}")
    return settings


class RunReader:
    """Reads a run, by its URL or by a store that is open already.

    Attributes:
        store: The run's prefix of a bucket.
        settings: What run.json says.

    Raises:
        RunNotFound: there is no run at this prefix.
        NewerSchema, BadObject: run.json cannot be read.
    """

    def __init__(self, where: str | Store) -> None:
        self.store = open_store(where) if isinstance(where, str) else where
        self.settings = read_settings(self.store)

    @property
    def url(self) -> str:
        """Where the run lies."""
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
        return Summary.of(self.log())

    def tail(self) -> tuple[int, Commit | None, float | None]:
        """How many commits there are, the last one, and when it was written by the store's clock.

        The log has no gap, so its end is found by bisection rather than by listing it.
        """
        found = last_of(lambda commit: self.store.head(keys.log(commit)), 0)
        if found is None:
            return 0, None, None
        last, info = found
        return last + 1, demand_present(read_now(self.store, info.key, Commit.read), info.key), info.modified

    def version(self) -> int:
        """The newest committed version, in optimizer steps."""
        last = self.tail()[1]
        return last.last_version if last is not None else 0

    def metrics(self) -> dict[int, dict[str, float]]:
        """The evaluations so far, by version."""
        return self._metrics([info.key for info in self.store.list(keys.METRICS)])

    def last_metrics(self) -> dict[int, dict[str, float]]:
        """The newest evaluation, by its version; empty where there was none."""
        return self._metrics([info.key for info in self.store.list(keys.METRICS)][-1:])

    def _metrics(self, wanted: Sequence[str]) -> dict[int, dict[str, float]]:
        return {
            record["version"]: {name: math.nan if value is None else value for name, value in record["metrics"].items()}
            for record in read_many(self.store, wanted, wire.load_json)
            if record is not None
        }

    def newest_snapshot(self) -> int:
        """The version of the newest snapshot; 0 if there is none."""
        return max((keys.number(info.key) for info in self.store.list(keys.SNAPSHOTS)), default=0)

    def trace_rows(self, *kinds: str) -> Iterator[tuple[str, ObjectInfo, dict[str, Any]]]:
        """What functions measured, as they wrote it: the function, the part of its trace, and each row of these kinds.

        Raises:
            BadObject: a part is damaged.
        """
        infos = list(self.store.list(keys.TRACE))
        parts = read_many(self.store, [info.key for info in infos], unpack_rows)
        for info, rows in zip(infos, parts, strict=True):
            for row in rows or ():
                if row["kind"] in kinds:
                    yield info.key.split("/")[1], info, row

    def requests(self) -> MeterReading:
        """What the run's functions asked of the store, by their own meters, with times.

        Up to 15 seconds of a killed function's requests are not in it, nor is what the caller asks for; `usage` has
        all of them.
        """
        last = {function: row for function, _, row in self.trace_rows("meter")}
        return sum(map(meter_reading, last.values()), start=MeterReading())

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
            usage += [Usage(name, row["seconds"], 0, meter_reading(row), complete=False) for row in meter]
        return usage
