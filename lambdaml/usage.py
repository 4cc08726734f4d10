"""What one function used, as its engine saw it: kept in the run, one object a function, so that nothing spent is lost
with a function that died."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lambdaml.storage import MeterReading


@dataclass(frozen=True, slots=True)
class Usage:
    """What one function used.

    Attributes:
        function: its name; `launcher-...` for the process that started the run and evaluates.
        seconds: that it lasted, from asking for it to its end.
        memory_bytes: of its process at most; 0 where unknown.
        reading: its requests and bytes.
        complete: whether the reading holds everything up to its end; where not, requests of its last moments may be
            missing.
    """

    function: str
    seconds: float
    memory_bytes: int
    reading: MeterReading
    complete: bool


def usage_event(function: str, seconds: float, memory_bytes: int, reading: MeterReading) -> dict[str, Any]:
    """What an engine tells of a function now and then while it lives, and for the last time before its "ended"."""
    return {
        "event": "usage",
        "function": function,
        "seconds": round(seconds, 3),
        "memory_bytes": memory_bytes,
        "reading": reading.to_dict(),
    }
