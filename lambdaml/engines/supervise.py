"""The supervisor keeps functions going until the run has ended, for every engine whose functions can die one by one.

The engine starts functions and passes on their events. This module decides which are replaced, what is an error, and
when to give up.
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
"""The `code` of an `EndedEvent` says how a function ended: the run has ended, it left and others must go on, or it
failed and reported its error. Any other code is a death."""

DIED = 70
"""A function that ended without a word and was not killed by a signal has this `code`."""

MAX_BARREN = 5
"""The run fails when functions have died more often than this number times the number of functions, without any commit
in between."""

ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32)}
"""These settings make glibc's allocator keep freed memory for the next step, instead of faulting in fresh pages."""


class Crew(Protocol):
    """Declares what an engine provides for the functions of one call of `Engine.run`."""

    def start(self, index: int, dead: Sequence[str]) -> str:
        """Start function number `index`, and return its name, which no other function of the run ever has.

        Args:
            index: The number of the function, from 0.
            dead: The functions that are known to be dead by now. The list keeps growing.
        """

    def leave(self) -> None:
        """Ask all functions to leave."""

    def events(self) -> Iterator[Event]:
        """Yield the functions' events, and an `EndedEvent` when one ends. It is called again after an interruption, and
        need not end before all functions have."""


def supervise(crew: Crew, functions: int, emit: Emit, dead: Iterable[str] = ()) -> None:
    """Keep this many functions running until the run has ended.

    Raises:
        KeyboardInterrupt: If it was interrupted, once all functions have left.
        LambdaMLError: If this error made a function give up for good.
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
                revived = revive(event)
                unreachable += isinstance(revived, StoreUnavailable)
                # A single function may lose the store. Each waited for the run's patience before it gave up.
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
    """Return what a function has used by now that began at `began`, by `time.monotonic`."""
    seconds = round(time.monotonic() - began, 3)
    return UsageEvent(function=name, seconds=seconds, memory_bytes=memory_bytes, reading=reading)


def error_event(name: str, error: Exception) -> ErrorEvent:
    """Return the event that a function emits when it gives up because of this error."""
    message = str(error) if isinstance(error, LambdaMLError) else f"{type(error).__name__}: {error}"
    kind, notes = type(error).__name__, tuple(getattr(error, "__notes__", ()))
    return ErrorEvent(function=name, type=kind, message=message[:2000], notes=notes)


def revive(event: ErrorEvent) -> LambdaMLError:
    """Return the error that a function's event tells of."""
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
