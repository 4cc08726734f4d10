"""What one function used, as its engine saw it: kept in the run, one object a function, so that nothing spent is lost
with a function that died."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from lambdaml.errors import BadObject
from lambdaml.log import keys, wire
from lambdaml.storage import MeterReading

LAUNCHER = "launcher-"
"""Begins the name under which a process that started functions stands."""


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

    @property
    def launcher(self) -> bool:
        """Whether it is that of a process that started functions, and was none itself."""
        return self.function.startswith(LAUNCHER)

    def dump(self) -> bytes:
        """The bytes of `usage/<function>.json`."""
        return wire.dump_json(asdict(self) | {"reading": self.reading.to_dict()})

    @staticmethod
    def load(data: bytes | memoryview, function: str) -> Usage:
        """Read the object of this function.

        Raises:
            BadObject: it is damaged, or not a usage of this function.
            NewerSchema: it was written by a newer lambdaml.
        """
        key = keys.usage(function)
        record = wire.load_json(data, key)
        try:
            usage = Usage(
                function=str(record["function"]),
                seconds=float(record["seconds"]),
                memory_bytes=int(record["memory_bytes"]),
                reading=MeterReading.from_dict(record["reading"]),
                complete=bool(record["complete"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadObject(f"{key} does not say what a function used: {error!r}") from error
        if usage.function != function:
            raise BadObject(f"{key} is the usage of {usage.function!r}")
        return usage

    @staticmethod
    def read(data: bytes | memoryview, key: str) -> Usage:
        """`load` by the object's key."""
        return Usage.load(data, key.removeprefix(keys.USAGE).removesuffix(".json"))
