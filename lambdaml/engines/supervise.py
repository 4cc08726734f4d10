"""Functions are kept going until the run has ended: the same for every engine whose functions can die alone.

The engine says how one is started and what is heard of them; who is replaced, what is an error, and when it is hopeless
is decided here.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from lambdaml import errors
from lambdaml.errors import LambdaMLError, RunFailed
from lambdaml.events import Emit, EndedEvent, ErrorEvent, Event, UsageEvent
from lambdaml.storage import MeterReading, StoreUnavailable

DONE, LEFT, FAILED = 0, 1, 2
"""How a function ended, in the `code` of its "ended" event: the run has ended, others must go on, it said what went
wrong. Everything else is a death."""

DIED = 70
"""Such a `code` for a function that ended without a word and was not killed by a signal."""

MAX_BARREN = 5
"""Times that as many functions as there are may die without any commit in between."""

ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32)}
"""Settings of glibc's allocator that keep freed memory for the next step, instead of faulting in fresh pages."""

ONE_CORE = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""A function computes on one core, so that its bits do not depend on the machine."""


class Crew(Protocol):
    """The functions of one call of `Engine.run`."""

    def start(self, index: int, dead: Sequence[str]) -> str:
        """Start function number `index`; returns its name, which is unique among all functions of the run, ever.

        Args:
            dead: functions that are known to be dead by now; the list goes on growing.
        """

    def leave(self) -> None:
        """Ask all functions to leave."""

    def events(self) -> Iterator[Event]:
        """What functions say, and an `EndedEvent` when each ends. Called again after an interruption; ends, if ever,
        when there are no more functions."""


def supervise(crew: Crew, functions: int, emit: Emit, dead: Iterable[str] = ()) -> None:
    """Run so many functions until the run has ended.

    Raises:
        KeyboardInterrupt: once all have left.
        LambdaMLError: what made a function give up for good.
    """
    gone = list(dead)
    running: dict[str, int] = {}
    barren = unreachable = 0
    error: LambdaMLError | None = None
    try:
        for index in range(functions):
            running[crew.start(index, gone)] = index
        for event in crew.events():
            index = running.pop(event.function, -1) if event.event == "ended" else -1
            emit(event)
            if event.event == "commit":
                barren = unreachable = 0
            elif event.event == "error":
                revived = _revive(event)
                unreachable += isinstance(revived, StoreUnavailable)
                # One function alone may lack the store. Each has had the run's patience with it before it said so.
                if error is None and (not isinstance(revived, StoreUnavailable) or unreachable >= functions):
                    error = revived
                    crew.leave()
            elif event.event == "ended":
                code = event.code
                if code not in (DONE, LEFT) and error is None:
                    barren += 1
                    gone.append(event.function)
                    if barren > MAX_BARREN * functions:
                        error = RunFailed(_why(event, barren))
                        crew.leave()
                if code != DONE and error is None:
                    running[crew.start(index, gone)] = index
                if not running:
                    break
    except KeyboardInterrupt:
        crew.leave()
        _drain(crew, running, emit)
        raise
    if error is not None:
        raise error


def _drain(crew: Crew, running: dict[str, int], emit: Emit) -> None:
    if not running:
        return
    for event in crew.events():
        emit(event)
        if event.event == "ended":
            running.pop(event.function, None)
        if not running:
            return


def used(name: str, began: float, memory_bytes: int, reading: MeterReading) -> UsageEvent:
    """What a function that began then, by `time.monotonic`, has used by now."""
    seconds = round(time.monotonic() - began, 3)
    return UsageEvent(function=name, seconds=seconds, memory_bytes=memory_bytes, reading=reading)


def error_event(name: str, error: Exception) -> ErrorEvent:
    """What a function says when it gives up."""
    message = str(error) if isinstance(error, LambdaMLError) else f"{type(error).__name__}: {error}"
    kind, notes = type(error).__name__, tuple(getattr(error, "__notes__", ()))
    return ErrorEvent(function=name, type=kind, message=message[:2000], notes=notes)


def _revive(event: ErrorEvent) -> LambdaMLError:
    kind = getattr(errors, event.type, RunFailed)
    error = kind(event.message) if issubclass(kind, LambdaMLError) else RunFailed(event.message)
    for note in event.notes:
        error.add_note(note)
    return error


def _why(event: EndedEvent, times: int) -> str:
    if event.code == -9:
        return f"functions were killed {times} times in a row without progress: is the machine out of memory?"
    reason = event.reason or f"status {event.code}"
    return f"functions ended {times} times in a row without progress ({reason})"
