"""Patterns: how the bytes of updates reach every replica. Each has a file of its own.

A pattern makes requests and keeps what it has read. It has no part in what is decided, or when. To add one, write a
file with a class that has the members of `Pattern`, and add one line to `PATTERNS`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from lambdaml.log.records import Commit, Update
from lambdaml.registry import Registry


class Pattern(Protocol):
    """One function's part in the exchange of updates.

    It is made with `shared`, a `lambdaml.worker.shared.Shared`. An update that it reads takes room in that object's
    window, and counts as a sign of life.

    Attributes:
        arrived: The updates that are known and have no fate yet, by worker and sequence number, in order of arrival.
        news: A number that grows with each update that arrives.
    """

    @property
    def arrived(self) -> Mapping[tuple[int, int], Update]:
        """The known updates that have no fate yet, by worker and sequence number, in order of arrival."""
        ...

    @property
    def news(self) -> int:
        """A number that grows with each update that arrives."""
        ...

    def look_for(self, workers: Collection[int]) -> None:
        """Look for the updates of exactly these workers from now on."""

    def add(self, update: Update) -> None:
        """Note that an update became known: it was read, or published by this function."""

    def take(self, commit: Commit) -> dict[tuple[int, int], Update]:
        """Return the known updates that get their fate in this commit, and forget them."""

    async def recover(self, worker: int) -> int:
        """Find the updates that earlier functions published for a worker that this function now holds.

        Returns:
            The sequence number to go on with.

        Raises:
            LeaseLost: If this function no longer holds the worker.
        """

    async def read(self, worker: int, seq: int) -> Update:
        """Return an update that exists according to the log.

        Raises:
            RunFailed: If it does not exist.
        """

    def forecast_s(self, commit: Commit) -> float:
        """Return the seconds from now until enough updates for another commit after this one will have been read."""

    def counted(self) -> dict[str, int]:
        """Return the reads since the last call: `gets`, `polls` (looks that found nothing) and `bytes_received`."""


PATTERNS: Registry[Pattern] = Registry("pattern", {"gather": "lambdaml.patterns.gather:Gather"})
