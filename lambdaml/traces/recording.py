"""A run whose bucket is read once, for reports that look at the same things several times."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

from lambdaml.log.reader import RunReader
from lambdaml.log.records import Commit
from lambdaml.log.usage import Usage
from lambdaml.storage import ObjectInfo, Store
from lambdaml.traces.attribution import trace_rows


class Recording(RunReader):
    """Reads a run as `RunReader` does, and keeps its log, its trace and its usage in memory as they were at the first
    look. A run that still goes on is seen as it was then.

    Args:
        run: The run, its URL, or a store that is open at its prefix.
    """

    def __init__(self, run: RunReader | str | Store) -> None:
        super().__init__(run.store if isinstance(run, RunReader) else run)

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of its trace; see `lambdaml.traces.attribution.trace_rows`."""
        return trace_rows(self)

    @cached_property
    def _commits(self) -> list[Commit]:
        return list(super().log())

    @cached_property
    def _parts(self) -> list[tuple[str, ObjectInfo, dict[str, Any]]]:
        return list(super().trace_rows("function", "clock", "arrivals", "meter", "update"))

    @cached_property
    def _usage(self) -> list[Usage]:
        return super().usage()

    def log(self, start: int = 0) -> Iterator[Commit]:
        """Yield the log's entries from number `start` on, in order."""
        yield from self._commits[start:]

    def trace_rows(self, *kinds: str) -> Iterator[tuple[str, ObjectInfo, dict[str, Any]]]:
        """Yield each row of these kinds that a function measured, after the function and the part of its trace."""
        yield from (found for found in self._parts if found[2]["kind"] in kinds)

    def usage(self) -> list[Usage]:
        """Return what each function used, and each process that started functions."""
        return self._usage
