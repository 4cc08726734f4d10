"""Counts in a flat block of memory, which other processes can read even after the counting process was killed.

Each count is one int64. A process makes the block (`shared`) and forks, and the child counts in it. The difference of
two counts tells which requests have begun and have not been answered, so a process that dies between any two
instructions leaves nothing counted twice.
"""

from __future__ import annotations

import mmap
from itertools import product

from lambdaml.storage.backend import Op

KINDS = ("get", "get_miss", "get_range", "head", "put", "create", "create_lost", "list", "delete", "wait")
"""The kinds of answered requests. All but the variants `get_miss` and `create_lost` are kinds of requests sent."""

RANGE_MISS = "get_range_miss"
"""The count of ranged gets that found no such key. They are read as `get_miss`, and end requests of their own kind."""

OPS: tuple[Op, ...] = ("get", "get_range", "head", "put", "create", "list", "delete", "wait")

OTHER = "StoreError"
"""The name under which all other errors are counted."""

ERRORS = (OTHER, "BadStoreURL", "AccessDenied", "StoreUnfit", "StoreUnavailable", "Throttled", "StoreTimeout")

_NAMES = (
    *KINDS,
    RANGE_MISS,
    *(f"{op}/{error}" for op, error in product(OPS, ERRORS)),
    *(f"begun {op}" for op in OPS),
    "bytes sent",
    "bytes received",
)
_SLOTS = {name: slot for slot, name in enumerate(_NAMES)}
_ENDS = {
    op: tuple(name for name in _NAMES if name.split("/")[0].removesuffix("_miss").removesuffix("_lost") == op)
    for op in OPS
}
"""The counts of requests that have ended, by op."""


class Ledger:
    """The counts of one process. The caller must serialise writes; any process may read at the same time.

    Args:
        memory: An int64 array of zeros, one for each count. Defaults to memory of this process alone.
    """

    def __init__(self, memory: memoryview | None = None) -> None:
        self._counts = memory or memoryview(bytearray(8 * len(_NAMES))).cast("q")

    @classmethod
    def shared(cls) -> Ledger:
        """Return a ledger in memory that is shared with processes forked from now on."""
        return cls(memoryview(mmap.mmap(-1, 8 * len(_NAMES))).cast("q"))

    def count(self, name: str, number: int = 1) -> None:
        """Add to a count: a kind, `op/ErrorName`, `begun op`, `bytes sent` or `bytes received`."""
        slot = _SLOTS.get(name)
        self._counts[_SLOTS[f"{name.split('/')[0]}/{OTHER}"] if slot is None else slot] += number

    def read(self) -> dict[str, int]:
        """Return every count that is not zero, by name."""
        return {name: number for name, number in zip(_NAMES, self._counts.tolist(), strict=True) if number}


def in_flight(counts: dict[str, int]) -> dict[str, int]:
    """Return the number of requests that have begun and have not ended, by op, from what `Ledger.read` returned."""
    pending = {op: counts.get(f"begun {op}", 0) - sum(counts.get(name, 0) for name in _ENDS[op]) for op in OPS}
    return {op: number for op, number in pending.items() if number > 0}
