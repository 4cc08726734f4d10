"""Accounts record what a call of `train` or `resume` has spent so far, for each function and for the calling
process."""

from __future__ import annotations

import contextlib
import resource
import secrets
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from lambdaml.errors import StoreError
from lambdaml.events import Event
from lambdaml.log import keys
from lambdaml.log.usage import LAUNCHER, Usage, write_own
from lambdaml.storage import MeterReading, Store


class Accounts:
    """Keeps the latest usage of each function, and writes it to the run when the function has ended.

    Args:
        store: The run's store. All requests that it gets from now on are this process's own usage.
    """

    def __init__(self, store: Store) -> None:
        self.earlier: list[Usage] = []
        self._settled = MeterReading()
        self._closed: MeterReading | None = None
        self._store = store
        self._began = time.monotonic()
        self._before = self._metered()
        self._name = f"{LAUNCHER}{secrets.token_hex(6)}"
        self._latest: dict[str, Usage] = {}
        self._ended: set[str] = set()
        self._lock = threading.Lock()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="usage")
        self._written: list[Future[None]] = []

    def take(self, event: Event) -> None:
        """Take note of an engine's event, in any thread."""
        if event.event == "usage":
            usage = Usage(event.function, event.seconds, event.memory_bytes, event.reading, complete=False)
            with self._lock:
                self._latest[usage.function] = usage
        elif event.event == "ended" and event.function in self._latest:
            with self._lock:
                usage = replace(self._latest[event.function], complete=not event.uncounted)
                self._latest[usage.function] = usage
                self._ended.add(usage.function)
                self._settled = self._settled + usage.reading
            self._written.append(self._writer.submit(self._write, usage))

    @property
    def seconds(self) -> float:
        """The wall time since the call began."""
        return time.monotonic() - self._began

    def functions(self) -> list[Usage]:
        """Return what each function has used so far, including earlier calls."""
        with self._lock:
            return [*(usage for usage in self.earlier if not usage.launcher), *self._latest.values()]

    def reading(self) -> MeterReading:
        """Return all requests and bytes so far, including earlier calls and the calling processes."""
        own = self._metered() - self._before
        with self._lock:
            return self._settled + total(self._alive()) + own

    def begin(self, earlier: list[Usage]) -> None:
        """Take over the usage of earlier calls for this run."""
        self.earlier, self._settled = earlier, total(earlier)

    def close(self) -> MeterReading:
        """Write all usage that is not written yet, this process's own last, and return the run's total. Later calls
        only return it.

        Raises:
            StoreError: If the usage could not be written.
        """
        if self._closed is not None:
            return self._closed
        with self._lock:
            alive = self._alive()
        with self._writer:
            self._written += [self._writer.submit(self._write, usage) for usage in alive]
        for future in self._written:
            future.result()
        with_this = write_own(self._store, self._own(self._metered() - self._before))
        self._closed = total([*self.earlier, *self._latest.values(), with_this])
        return self._closed

    def abandon(self) -> None:
        """Write as much as possible after an error."""
        with contextlib.suppress(StoreError):
            self.close()

    def _alive(self) -> list[Usage]:
        return [usage for usage in self._latest.values() if usage.function not in self._ended]

    def _write(self, usage: Usage) -> None:
        self._store.create(keys.usage(usage.function), usage.dump())

    def _own(self, reading: MeterReading) -> Usage:
        peak_bytes = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return Usage(self._name, round(self.seconds, 3), peak_bytes, reading, complete=True)

    def _metered(self) -> MeterReading:
        meter = getattr(self._store, "meter", None)
        return meter.snapshot() if meter is not None else MeterReading()


def total(usage: Iterable[Usage]) -> MeterReading:
    """Return the requests and bytes of all of these together."""
    return sum((each.reading for each in usage), start=MeterReading())
