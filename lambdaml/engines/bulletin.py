"""Follows a launch by reading the run's bucket, for engines that hear nothing from their functions.

The log tells of commits, each function's trace that it has started and what it has used, and the usage that it writes
at its end that it has ended. A look costs a request for the next log entry, and now and then a list or two.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from lambdaml.events import EndedEvent, Event, SnapshotEvent, StartedEvent, UsageEvent
from lambdaml.log import keys
from lambdaml.log.launches import prefix_of
from lambdaml.log.reader import RunReader
from lambdaml.log.reads import read_many, read_now
from lambdaml.log.records import Commit
from lambdaml.log.state import LogState
from lambdaml.log.trace_parts import meter_reading, unpack_rows
from lambdaml.log.usage import Usage
from lambdaml.settings import Settings
from lambdaml.storage import Store
from lambdaml.training.sampling import sampler_without_data
from lambdaml.worker.committer import commit_event

FUNCTIONS_S = 3.0
"""What functions have written about themselves is looked for this often, in seconds."""

_MOST = 64
"""At most this many log entries are asked for at once."""


class Bulletin:
    """The news of a launch.

    Args:
        store: The run's bucket.
        settings: The run's settings.
        launch: The name of the launch.

    Attributes:
        alive: The functions that have started and not ended, each with the key of its latest trace part.
        moved: The time of the latest sign of life of any function, by `time.monotonic`.
    """

    def __init__(self, store: Store, settings: Settings, launch: str) -> None:
        self.alive: dict[str, str] = {}
        self.moved = time.monotonic()
        self._store = store
        self._sampler = sampler_without_data(settings)
        self._prefix = prefix_of(launch)
        self._log = LogState(settings.workers, settings.steps)
        for commit in RunReader(store).log():
            self._log.advance(commit)
        self._snapshot = [info.key for info in store.list(keys.SNAPSHOTS)][-1]
        self._ended: set[str] = set()
        self._looked = 0.0

    @property
    def over(self) -> bool:
        """Whether the log says that the run has ended."""
        return self._log.stop is not None

    def awaited(self, lives: Mapping[int, int]) -> list[int]:
        """Return those functions that have not said that this life of theirs has ended."""
        return [
            index
            for index, life in lives.items()
            if not any(name.startswith(f"{self._prefix}{index}.{life}-") for name in self._ended)
        ]

    def news(self, look: bool = False) -> Iterator[Event]:
        """Yield what has happened since the last call.

        Args:
            look: Whether to look for news of functions, too, though it may be a short time since the last look.
        """
        fresh = False
        for commit in self._entries():
            self._log.advance(commit)
            fresh, self.moved = True, time.monotonic()
            yield commit_event(commit, self._log.progress, self._sampler)
        if fresh:
            for info in list(self._store.list(keys.SNAPSHOTS, after=self._snapshot)):
                self._snapshot = info.key
                yield SnapshotEvent(version=keys.number(info.key), size_bytes=info.size_bytes)
        if look or time.monotonic() - self._looked > FUNCTIONS_S or self.over:
            self._looked = time.monotonic()
            yield from self._functions()

    def lost(self) -> Iterator[Event]:
        """Yield the ends of the functions that are thought to be alive and will not say any more."""
        for name in list(self.alive):
            del self.alive[name]
            yield EndedEvent(function=name, code=-9, reason="it fell silent", uncounted=True)

    def _entries(self) -> Iterator[Commit]:
        count = 1
        while True:
            first = self._log.commit
            found = read_many(self._store, [keys.log(first + ahead) for ahead in range(count)], Commit.read)
            for commit in found:
                if commit is None:  # one after it may be there, if it was written and read meanwhile
                    return
                yield commit
            count = min(2 * count, _MOST)

    def _functions(self) -> Iterator[Event]:
        parts: dict[str, str] = {}
        for info in self._store.list(keys.TRACE + self._prefix):
            parts[info.key.split("/")[1]] = info.key
        for name, key in parts.items():
            if name not in self._ended and self.alive.get(name) != key:
                if name not in self.alive:
                    yield StartedEvent(function=name)
                self.alive[name], self.moved = key, time.monotonic()
                rows = read_now(self._store, key, unpack_rows) or []
                for row in [row for row in rows if row["kind"] == "meter"][-1:]:
                    yield UsageEvent(function=name, seconds=row["seconds"], memory_bytes=0, reading=meter_reading(row))
        keyed = {
            info.key.removeprefix(keys.USAGE).removesuffix(".json"): info.key
            for info in self._store.list(keys.USAGE + self._prefix)
        }
        fresh = [name for name in keyed if name not in self._ended]
        for usage in read_many(self._store, [keyed[name] for name in fresh], Usage.read):
            if usage is not None:
                self.moved = time.monotonic()
                self.alive.pop(usage.function, None)
                self._ended.add(usage.function)
                yield UsageEvent(
                    function=usage.function,
                    seconds=usage.seconds,
                    memory_bytes=usage.memory_bytes,
                    reading=usage.reading,
                )
                yield EndedEvent(function=usage.function, code=0 if self.over else 1)
