"""The logs of a run: what the user's code printed and logged in its functions, and the errors that functions failed with.

Functions write them into the parts of their traces, so they cost no request of their own, and come late: a part is written
every 15 seconds, if any update was finished meanwhile, and when the function ends. A function that is killed loses what it
had not written. What `evaluate` printed stands with the metrics.

Each function has a clock of its own. The store dates its first part, in which it says what its clock showed, so that lines
of several functions have an order. It is as good as the store's dates, which S3 gives in whole seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lambdaml.errors import SettingsError
from lambdaml.log import keys, wire
from lambdaml.log.reader import RunReader
from lambdaml.log.reads import Unpack, read_many
from lambdaml.log.status import status
from lambdaml.log.trace_parts import unpack_rows
from lambdaml.storage import ObjectInfo
from lambdaml.worker.tracing import FLUSH_S

LOOK_PACE_S = 2.0
"""Whoever follows the logs waits this many seconds for each request that it made."""

_SILENT_S = 30.0
"""If no part has come for so long, in seconds, it asks whether anybody works on the run."""


_KINDS = ("log", "error")

_Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of the logs.

    Attributes:
        function: The name of the function, or `evaluate`.
        seconds: The time since the function or the evaluation began, by its own clock, in seconds.
        run_s: The time since the first of the run's functions began, in seconds, as good as the store's dates.
        worker: The worker for which the code ran; None if it ran for none, as when the job is imported.
        seq: The number of the update that it computed, among those of the worker.
        source: The origin: `stdout`, `stderr`, the name of a logger, or `error` if the function failed with it.
        level: The level of a record of `logging`, or ""; that of an error is `ERROR`.
        text: The text, which has several lines if it was logged as such.
        frames: The lines of the job that led to an error, the outermost first.
        left_out: The number of lines that were left out here; the text is empty then.
        version: The version that was evaluated, if it was `evaluate` that printed.
    """

    function: str
    seconds: float
    run_s: float
    worker: int | None
    seq: int | None
    source: str
    level: str
    text: str
    frames: tuple[str, ...] = ()
    left_out: int = 0
    version: int | None = None


def run_logs(run: RunReader, worker: int | None = None) -> list[LogLine]:
    """Return all lines that a run's functions have written, in the order of time as far as clocks tell.

    Args:
        worker: The worker whose lines are wanted; by default those of all, and those of none.

    Raises:
        SettingsError: If the run has no such worker.
        BadObject: If a part is damaged.
    """
    return _Reader(run, worker).news()


def follow_logs(
    run: RunReader, worker: int | None = None, sleep: Callable[[float], None] = time.sleep
) -> Iterator[LogLine]:
    """Yield the lines of a run, and wait for more until it has ended or nobody works on it.

    This makes one request in `LOOK_PACE_S` on average. With more than four functions it makes more, since it reads each part of
    a trace once, and each function writes one in `FLUSH_S`.

    Args:
        worker: The worker whose lines are wanted; by default those of all, and those of none.
        sleep: The call that waits for some seconds.

    Raises:
        SettingsError: If the run has no such worker.
        BadObject: If a part is damaged.
    """
    reader, store = _Reader(run, worker), run.store
    silent_s = over_s = 0.0
    over = False
    while True:
        over = over or store.head(keys.MODEL) is not None or (silent_s >= _SILENT_S and status(run).state != "running")
        done = over and (over_s >= FLUSH_S or reader.all_ended())
        before, seen = reader.requests, reader.seen
        yield from reader.news()
        if done:
            return
        wait_s = min(LOOK_PACE_S * (1 + reader.requests - before), FLUSH_S)
        silent_s = silent_s + wait_s if reader.seen == seen and silent_s < _SILENT_S else 0.0
        over_s += wait_s if over else 0.0
        sleep(wait_s)


class _Reader:
    """Reads the parts of a run's traces, and its metrics, each once.

    Attributes:
        requests: The number of requests that `news` has made.
    """

    def __init__(self, run: RunReader, worker: int | None) -> None:
        if worker is not None and not 0 <= worker < run.settings.workers:
            raise SettingsError(f"there is no worker {worker}: the run has workers 0 to {run.settings.workers - 1}")
        self.requests = 0
        self._run = run
        self._worker = worker
        self._seen: set[str] = set()
        self._began_s: dict[str, tuple[float, float]] = {}  # by the function's clock, and by the store's
        self._first_s: float | None = None

    @property
    def seen(self) -> int:
        """The number of objects that were read."""
        return len(self._seen)

    def all_ended(self) -> bool:
        """Return whether it is known what each function has used, which is written after its last part."""
        store = self._run.store
        ended = {info.key.removeprefix(keys.USAGE).removesuffix(".json") for info in store.list(keys.USAGE)}
        return {_function(info) for info in store.list(keys.TRACE)} <= ended

    def news(self) -> list[LogLine]:
        """Return the lines in objects that were not there before."""
        parts, evaluations = self._fresh(keys.TRACE, unpack_rows), self._fresh(keys.METRICS, wire.load_json)
        for info, rows in parts:
            self._date(info, rows)
        began_s = [placed_s for _, placed_s in self._began_s.values()]
        self._first_s = min(began_s, default=0.0) if self._first_s is None else self._first_s
        lines = [self._line(row, _function(info)) for info, rows in parts for row in rows if row["kind"] in _KINDS]
        for info, record in evaluations:
            self._date(info, record.get("said", ()))
            lines += [self._line(row, info.key, record["version"]) for row in record.get("said", ())[1:]]
        wanted = [line for line in lines if self._worker in (None, line.worker)]
        return sorted(wanted, key=lambda line: line.run_s)

    def _fresh(self, prefix: str, unpack: Unpack[Any]) -> list[tuple[ObjectInfo, Any]]:
        store = self._run.store
        infos = [info for info in store.list(prefix) if info.key not in self._seen]
        self._seen.update(info.key for info in infos)
        self.requests += 1 + len(infos)
        found = read_many(store, [info.key for info in infos], unpack)
        return [(info, each) for info, each in zip(infos, found, strict=True) if each is not None]

    def _date(self, info: ObjectInfo, rows: Sequence[_Row]) -> None:
        """Note when a function or an evaluation began, by its clock and the store's, if this is its first object."""
        began_s = next((row["at_s"] for row in rows if row["kind"] == "began"), None)
        if began_s is not None:
            last_s = max(row["at_s"] for row in rows if "at_s" in row)
            written_s = next((row["now_s"] for row in rows if row["kind"] == "function"), last_s)
            self._began_s[_function(info)] = began_s, info.modified - (written_s - began_s)

    def _line(self, row: _Row, of: str, version: int | None = None) -> LogLine:
        own_s, placed_s = self._began_s.get(of, (row["at_s"], self._first_s or 0.0))
        seconds = row["at_s"] - own_s
        failed = row["kind"] == "error"
        return LogLine(
            function=of if version is None else "evaluate",
            seconds=round(seconds, 6),
            run_s=round(placed_s + seconds - (self._first_s or 0.0), 6),
            worker=row.get("worker"),
            seq=row.get("seq"),
            source="error" if failed else row.get("stream") or row.get("logger", ""),
            level="ERROR" if failed else row.get("level", ""),
            text=row.get("text", ""),
            frames=tuple(row.get("frames", ())),
            left_out=row.get("left_out", 0),
            version=version,
        )


def _function(info: ObjectInfo) -> str:
    """Return the function that wrote a part; the key itself if it is no part of a trace."""
    return info.key.split("/")[1] if info.key.startswith(keys.TRACE) else info.key
