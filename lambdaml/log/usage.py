"""The record of what one function used, as its engine saw it.

The run keeps one such object for each function, so that the account of what was spent survives a function that died.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from lambdaml.errors import BadObject
from lambdaml.log import keys, wire
from lambdaml.storage import MeterReading, Store

LAUNCHER = "launcher-"
"""The prefix of the name of a process that started functions."""


@dataclass(frozen=True, slots=True)
class Usage:
    """The usage of one function.

    Attributes:
        function: The function's name; `launcher-...` for the process that started the run and evaluates.
        seconds: The seconds from the request to start the function to its end.
        memory_bytes: The most memory that its process took; 0 if it is unknown.
        reading: The requests that it made, and their bytes.
        complete: Whether the reading holds everything up to the function's end. If not, it may lack requests of its
            last moments.
        platform: The platform of the price book that bills it, such as `lambda-arm:1769`, if it knew that.
    """

    function: str
    seconds: float
    memory_bytes: int
    reading: MeterReading
    complete: bool
    platform: str = ""

    @property
    def launcher(self) -> bool:
        """Whether this is the usage of a process that started functions and was not a function itself."""
        return self.function.startswith(LAUNCHER)

    def dump(self) -> bytes:
        """Return the bytes of `usage/<function>.json`."""
        return wire.dump_json(asdict(self) | {"reading": self.reading.to_dict()})

    @staticmethod
    def load(data: bytes | memoryview, function: str) -> Usage:
        """Read the usage of this function from its object.

        Raises:
            BadObject: If the object is damaged, or is not the usage of this function.
            NewerSchema: If it was written by a newer lambdaml.
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
                platform=str(record.get("platform", "")),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadObject(f"{key} does not say what a function used: {error!r}") from error
        if usage.function != function:
            raise BadObject(f"{key} is the usage of {usage.function!r}")
        return usage

    @staticmethod
    def read(data: bytes | memoryview, key: str) -> Usage:
        """Read a usage from its object, by the object's key; see `load`."""
        return Usage.load(data, key.removeprefix(keys.USAGE).removesuffix(".json"))


def write_own(store: Store, usage: Usage) -> Usage:
    """Write a process's own usage, and return it with the request that this takes."""
    data, with_this = b"", usage
    while len(with_this.dump()) != len(data):  # the object contains its own length
        data = with_this.dump()
        put = MeterReading({"create": 1}, bytes_sent=len(data))
        with_this = replace(usage, reading=usage.reading + put)
    store.create(keys.usage(usage.function), with_this.dump())
    return with_this
