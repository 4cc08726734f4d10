"""Patterns: how the bytes of updates reach every replica. One file each.

A pattern makes requests and keeps what it has read; what is decided, and when, is not its business. To add one: a file
with a class that has the members of `Pattern`, and one line in `PATTERNS`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from lambdaml.log.records import Commit, Update
from lambdaml.registry import Registry


class Pattern(Protocol):
    """The exchange of updates, as one function takes part in it. It is made with `shared`, a
    `lambdaml.worker.shared.Shared`: what it reads takes room in that window, and counts as a sign of life.

    Attributes:
        arrived: the updates that are known and have no fate yet, by worker and sequence number, in order of arrival.
        news: grows with each update that arrives.
    """

    @property
    def arrived(self) -> Mapping[tuple[int, int], Update]: ...
    @property
    def news(self) -> int: ...

    def look_for(self, workers: Collection[int]) -> None:
        """Look for the updates of exactly these workers from now on."""

    def add(self, update: Update) -> None:
        """An update became known: it was read, or published by this function."""

    def take(self, commit: Commit) -> dict[tuple[int, int], Update]:
        """Hand over what is known of the updates that get their fate in this commit, and forget them."""

    async def recover(self, worker: int) -> int:
        """Find what earlier functions published for a worker that is ours now; the sequence number to go on with.

        Raises:
            LeaseLost: the worker is not ours any more.
        """

    async def read(self, worker: int, seq: int) -> Update:
        """An update that the log says exists.

        Raises:
            RunFailed: it does not.
        """

    def forecast_s(self, commit: Commit) -> float:
        """Seconds from now until enough updates for another commit after this one will have been read."""

    def counted(self) -> dict[str, int]:
        """What was read since this was last asked: `gets`, `polls` (looks that found nothing) and `bytes_received`."""


PATTERNS: Registry[Pattern] = Registry("pattern", {"gather": "lambdaml.patterns.gather:Gather"})
