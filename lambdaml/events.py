"""Events report what happens during a run, as it happens. Each kind of event is a frozen class.

`train` and `resume` hand them to `on_event`. Between processes they travel as JSON (`to_dict`), and `event_of` reads
them back: it leaves out kinds and fields that only a newer lambdaml knows. Nothing depends on an event, and an event
may be lost with the process that reported it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from lambdaml.settings import Settings
from lambdaml.storage import MeterReading
from lambdaml.storage.errors import StoreUnavailable


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    """Holds what all events have in common.

    Attributes:
        function: The name of the function that the event is about; empty for the process that started the run.
    """

    function: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values by name, for JSON, without those that are None or an empty text."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: _plain(value) for name, value in values.items() if value is not None and value != ""}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEvent(_Told):
    """The run's run.json exists, and functions are about to start. Each call of `train` or `resume` reports this once.

    Attributes:
        run: The URL of the run.
        settings: The content of its run.json.
        functions: The number of functions that will work on the run.
    """

    event: Literal["run"] = "run"
    run: str
    settings: Settings
    functions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WarningEvent(_Told):
    """Something looks wrong but may be intended; `text` says what it is."""

    event: Literal["warning"] = "warning"
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyEvent(_Told):
    """The process that forks functions has started (engine `local`)."""

    event: Literal["ready"] = "ready"


@dataclass(frozen=True, slots=True, kw_only=True)
class SentEvent(_Told):
    """The job's folder was sent to the nodes, which did not have it (engine `ray`).

    Attributes:
        folder: The path of the folder.
        files: The number of files in it.
        size_bytes: The number of bytes that were sent.
    """

    event: Literal["sent"] = "sent"
    folder: str
    files: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StartedEvent(_Told):
    """A function has started.

    Attributes:
        pid: The number of its process, if it has a process of its own.
        node: The Ray node that it runs on (engine `ray`).
        fault_plan: The faults that a fault schedule has in store for it, by name (simulations).
    """

    event: Literal["started"] = "started"
    pid: int | None = None
    node: str = ""
    fault_plan: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitEvent(_Told):
    """An entry of the log was written and applied.

    Attributes:
        commit: The number of the entry.
        version: The version after the entry.
        progress: The number of updates, or steps of the schedule, that the run has made.
        fraction: The share of the run that is done.
        updates: The number of updates whose fate this entry decides.
        refused: The fate and reason of each update that was not applied.
        rejected: One text for people about each update that was rejected.
        training_loss: The mean loss of the updates that were applied; None if none was.
        staleness: The staleness of each update that was applied.
    """

    event: Literal["commit"] = "commit"
    commit: int
    version: int
    progress: int
    fraction: float
    updates: int
    refused: Sequence[str] = ()
    rejected: Sequence[str] = ()
    training_loss: float | None = None
    staleness: Sequence[int] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotEvent(_Told):
    """A snapshot of this version was written; it has this size."""

    event: Literal["snapshot"] = "snapshot"
    version: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEvent(_Told):
    """A function wrote what a worker remembers after this many updates; it has this size."""

    event: Literal["memory"] = "memory"
    worker: int
    updates: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RememberedEvent(_Told):
    """The memories of these workers were recovered, by computing so many of their updates again in so many seconds."""

    event: Literal["remembered"] = "remembered"
    workers: Sequence[int]
    updates: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HorizonEvent(_Told):
    """Objects that only a replay of versions before this one needs are deleted from now on."""

    event: Literal["horizon"] = "horizon"
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OvertakenEvent(_Told):
    """A function wanted to read an object that was deleted below the horizon. It goes on from the newest snapshot."""

    event: Literal["overtaken"] = "overtaken"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatingEvent(_Told):
    """Only an evaluation is still going on. This is reported several times a second."""

    event: Literal["evaluating"] = "evaluating"


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsEvent(_Told):
    """The snapshot of this version was evaluated; `metrics` holds the job's metrics by name."""

    event: Literal["metrics"] = "metrics"
    version: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingEvent(_Told):
    """A function has waited for this worker for this many seconds."""

    event: Literal["waiting"] = "waiting"
    worker: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeoverEvent(_Told):
    """A function now works as this worker, which had fallen silent."""

    event: Literal["takeover"] = "takeover"
    worker: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LeavingEvent(_Told):
    """A function leaves, and others must go on.

    Attributes:
        commits: The number of commits that it knew.
        silent: For each worker that the function did not hold, how many seconds ago it last heard of it.
    """

    event: Literal["leaving"] = "leaving"
    commits: int
    silent: Mapping[int, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomEvent(_Told):
    """Ray has had no room for any function for this many seconds (engine `ray`); `needs` says what one needs."""

    event: Literal["room"] = "room"
    needs: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OutageEvent(_Told):
    """The store cannot be reached.

    Attributes:
        error: The store's last error.
        patience_s: How long its requests are repeated before the function gives up.
    """

    event: Literal["outage"] = "outage"
    error: str = ""
    patience_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveredEvent(_Told):
    """The store can be reached again after an outage of this many seconds."""

    event: Literal["recovered"] = "recovered"
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageEvent(_Told):
    """Reports what a function has used so far, a few times a second and for the last time before it ends.

    Attributes:
        seconds: How long the function has lasted since it was asked for.
        memory_bytes: The peak memory of its process; 0 if that is unknown.
        reading: Its requests and bytes.
        in_flight: The number of its requests that are not answered yet (engine `local`).
    """

    event: Literal["usage"] = "usage"
    seconds: float
    memory_bytes: int
    reading: MeterReading
    in_flight: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorEvent(_Told):
    """A function gives up.

    Attributes:
        type: The name of the error's class; see `lambdaml.errors`.
        message: The error's text.
        notes: The lines of the job that led there.
    """

    event: Literal["error"] = "error"
    type: str
    message: str = ""
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedEvent(_Told):
    """A function has ended.

    Attributes:
        code: 0 if the run has ended, 1 if the function left and others must go on, 2 if it gave up. Any other code is a
            death; a code below 0 is the negative number of the signal that killed it.
        reason: Why it died, if that is known.
        uncounted: Whether the account of what it used last was lost.
        outcome: How it ended, in words (simulations).
    """

    event: Literal["ended"] = "ended"
    code: int
    reason: str = ""
    uncounted: bool = False
    outcome: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanEvent(_Told):
    """A new plan for the rest of the run is being made, or was made; `line` says which."""

    event: Literal["plan"] = "plan"
    line: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultEvent(_Told):
    """A request meets a fault (simulations).

    Attributes:
        fault: The kind of the fault.
        op: The kind of the request.
        key: The key that it asks for.
    """

    event: Literal["fault"] = "fault"
    fault: str
    op: str
    key: str = ""


Event = (
    RunEvent
    | WarningEvent
    | ReadyEvent
    | SentEvent
    | StartedEvent
    | CommitEvent
    | SnapshotEvent
    | MemoryEvent
    | RememberedEvent
    | HorizonEvent
    | OvertakenEvent
    | EvaluatingEvent
    | MetricsEvent
    | WaitingEvent
    | TakeoverEvent
    | LeavingEvent
    | RoomEvent
    | OutageEvent
    | RecoveredEvent
    | UsageEvent
    | ErrorEvent
    | EndedEvent
    | PlanEvent
    | FaultEvent
)
Emit = Callable[[Event], None]

_KINDS: dict[str, Callable[..., Event]] = {kind.__dataclass_fields__["event"].default: kind for kind in get_args(Event)}
_READ: dict[str, Callable[[Any], Any]] = {
    "reading": MeterReading.from_dict,
    "settings": Settings.model_validate,
    "silent": lambda record: {int(worker): float(seconds) for worker, seconds in record.items()},
}


def event_of(record: Any) -> Event | None:
    """Return the event that `to_dict` made this record from; None for anything else, and for kinds not known here."""
    kind = _KINDS.get(str(record.get("event"))) if isinstance(record, dict) else None
    if kind is None:
        return None
    known = inspect.signature(kind).parameters
    try:
        return kind(**{name: _read(name, value) for name, value in record.items() if name in known})
    except TypeError:  # it lacks a field
        return None


def tell_outages(emit: Emit) -> Callable[[StoreUnavailable | None, float], None]:
    """Return a callback for `lambdaml.storage.patience.Patience` that emits its reports as events."""

    def tell(error: StoreUnavailable | None, seconds: float) -> None:
        emit(RecoveredEvent(seconds=seconds) if error is None else OutageEvent(error=str(error), patience_s=seconds))

    return tell


def _read(name: str, value: Any) -> Any:
    if name in _READ:
        return _READ[name](value)
    return tuple(value) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    if isinstance(value, Settings):
        return value.model_dump()
    return value.to_dict() if isinstance(value, MeterReading) else value
