"""Writes what a function measured to the bucket, in parts while it works, with one row per update that it published.

The first part is written at the start and identifies the function. It holds a reading of the function's clock, and its
date is the store's; the next part has the clock's reading after that write. Whoever writes the log also notes when it
had read each update. From these times, and from what must have happened before what, `lambdaml.traces.clocks` compares
all clocks. What the user's code printed
rides in the parts, too, and so does the error that a function fails with (`lambdaml.traces.logs`). Every part ends with
the meter's reading, so the last part of each function has its requests. What a killed function had measured since its
last part is lost. Its fates and losses are not lost, since the log has them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from lambdaml.errors import JobFailed, LambdaMLError
from lambdaml.log import keys
from lambdaml.log.records import Commit, Update
from lambdaml.log.trace_parts import pack_rows
from lambdaml.worker.window import Id
from lambdaml.worker.world import World

FLUSH_S = 15.0
"""A part is written after this many seconds."""

_DIGITS = 12
"""So many digits of the digest of a memory go into the trace."""


class Tracer:
    """The trace of one function."""

    def __init__(self, world: World, function: str) -> None:
        self._world = world
        self._function = function
        self._part = 0
        self._rows: list[dict[str, Any]] = []
        self._open: dict[tuple[int, int], dict[str, Any]] = {}
        self._started = world.now()
        self._flushed = world.now()

    async def hello(self, **facts: Any) -> tuple[float, float, float]:
        """Write the first part, and return the clock before and after the write, and the store's date of the part."""
        before = self._world.now()
        self._rows.append({"kind": "function", "function": self._function, "now_s": round(before, 6), **facts})
        await self.flush()
        after = self._world.now()
        self._rows.append({"kind": "clock", "function": self._function, "after_s": round(after, 6)})
        info = await self._world.store.head(keys.trace_part(self._function, 0))
        return before, after, info.modified if info else 0.0

    def published(self, update: Update, started: float, upload_s: float) -> None:
        """Note that a worker's update is in the bucket. One that an earlier function put there is not counted here."""
        if update.function != self._function:
            return
        row = self._open[update.id] = {
            "kind": "update",
            "worker": update.worker,
            "seq": update.seq,
            "function": self._function,
            "started_s": started,
            "published_s": self._world.now(),
            "compute_s": update.compute_s,
            "encode_s": update.encode_s,
            "upload_s": upload_s,
            "bytes_sent": update.size_bytes,
            "puts": 1,
        }
        if update.batches is not None:
            row |= dict(zip(("first_batch", "batches"), update.batches, strict=True))
        if update.parts:
            row["parts"] = json.dumps(update.parts)
        if update.memory:
            row |= {"base_commit": update.base_commit, "memory": update.memory[:_DIGITS]}

    def applied(self, updates: Iterable[Id], download_s: float, apply_s: float, counts: Mapping[str, int]) -> None:
        """Note that these updates were applied here. The costs of that go to the first of this function's own among them.

        The times in the row are on this function's clock.

        Args:
            counts: The reads since the previous commit; see `Pattern.counted`.
        """
        now = self._world.now()
        for update in updates:
            row = self._open.pop(update, None)
            if row is None:
                continue
            wait_s = max(0.0, now - row["published_s"] - download_s - apply_s)
            row |= {"applied_s": now, "download_s": download_s, "wait_s": wait_s, "apply_s": apply_s}
            row |= counts
            counts = dict.fromkeys(counts, 0)
            self._rows.append(row)

    def arrived(self, commit: Commit, updates: Mapping[tuple[int, int], Update]) -> None:
        """Note when the updates of a commit arrived. `updates` are those that this function read before it wrote it."""
        found = [updates.get((entry.worker, entry.seq)) for entry in commit.entries]
        moments = [round(update.arrived_s, 6) if update and update.arrived_s is not None else None for update in found]
        self._rows.append({"kind": "arrivals", "commit": commit.commit, "at": moments})

    def failed(self, error: Exception) -> None:
        """Note the error that the function fails with."""
        self._rows.append(error_row(error, self._world.now()))

    async def close(self) -> None:
        """Write the last part.

        The rows of updates that have no fate yet, or whose commit was not applied here, are written as far as they got.
        """
        self._rows += self._open.values()
        self._open.clear()
        await self.flush()

    def due(self) -> bool:
        """Return whether it is time for another part."""
        return bool(self._rows) and self._world.now() - self._flushed > FLUSH_S

    async def flush(self) -> None:
        """Write the rows since the last part, what the user's code said, and the meter's reading."""
        rows, self._rows = [_rounded(row) for row in (*self._rows, *self._world.said())], []
        seconds = self._world.now() - self._started
        rows.append({"kind": "meter", "seconds": round(seconds, 6), **self._world.store.reading()})
        self._flushed = self._world.now()
        part, self._part = self._part, self._part + 1
        await self._world.store.put(keys.trace_part(self._function, part), pack_rows(rows))


def error_row(error: Exception, now_s: float) -> dict[str, Any]:
    """Return the row of an error that a function fails with, at this moment of its clock: the message, and the lines of
    the job that led to it."""
    text = str(error) if isinstance(error, LambdaMLError) else f"{type(error).__name__}: {error}"
    row = {"kind": "error", "at_s": now_s, "text": text[:2000], "frames": list(getattr(error, "__notes__", ()))}
    if isinstance(error, JobFailed) and error.update is not None:
        row["worker"], row["seq"] = error.update
    return row


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in row.items()}
