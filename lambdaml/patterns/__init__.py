"""Patterns: how the bytes of updates reach every replica. Each has a file of its own.

An exchange makes requests and keeps what it has read. It has no part in what is decided, or when, and not in the bits of
a sum: run.json fixes the bracket of all sums (`lambdaml.log.bracket`). To add a pattern, write a file with a class that
has the members of `Pattern` and one that has those of `Exchange`, and add one line to `PATTERNS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from lambdaml.log.bracket import Bracket
from lambdaml.log.records import Commit, Update
from lambdaml.registry import Registry

if TYPE_CHECKING:
    from lambdaml.parts import Parts
    from lambdaml.worker.machine import Total
    from lambdaml.worker.shared import Shared


class Pattern(Protocol):
    """A pattern, with its parameters. It has no state; each function has a part of its own in the exchange."""

    def bracket(self, workers: int) -> Bracket | None:
        """Return the bracket in which it adds up the updates of so many workers; None if it can do so in any."""

    def slices(self, workers: int) -> int:
        """Return the number of slices in which the updates of so many workers are written; 0 for whole updates."""
        ...

    def misfit(self, parts: Parts, workers: int) -> str:
        """Return why a run with these parts and workers cannot use it, as the end of a sentence, or ""."""
        ...

    def exchange(self, shared: Shared) -> Exchange:
        """Return one function's part in the exchange."""
        ...


class Exchange(Protocol):
    """One function's part in the exchange of updates.

    It is made with the function's `lambdaml.worker.shared.Shared`. An update that it reads takes room in that object's
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

    def attend(self, deciding: bool) -> None:
        """Do what the workers that are held here ask for. This is called whenever these change.

        Args:
            deciding: Whether this function decides commits, and so must know updates before the log names them.
        """

    def add(self, update: Update) -> None:
        """Note that an update became known: it was read, or published by this function."""

    def take(self, commit: Commit) -> dict[tuple[int, int], Update]:
        """Return the known updates that get their fate in this commit, and forget them."""

    def total(self, commit: Commit) -> Total | None:
        """Return what stands for the updates of this commit, and forget it; None if they are added up here."""

    def ready(self, worker: int, seq: int) -> bool:
        """Return whether the model is here from which a worker that is held here computes this update."""
        ...

    async def next(self) -> Commit | None:
        """Return the log entry that follows the known ones, or None if it does not exist yet; then ask again."""

    async def await_turn(self) -> None:
        """Wait until the function that writes the log may decide another commit."""

    async def applied(self, commit: Commit) -> None:
        """Do what others wait for, now that a commit was applied here."""

    def delivered(self, commits: int) -> bool:
        """Return whether all is in the bucket that others need to follow so many commits, as far as it is made here."""

    async def lead(self) -> None:
        """Make the replica whole if it has only followed others, so that this function can write the log."""

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


PATTERNS: Registry[Pattern] = Registry(
    "pattern",
    {
        "fold": "lambdaml.patterns.fold:Fold",
        "gather": "lambdaml.patterns.gather:Gather",
        "scatter": "lambdaml.patterns.scatter:Scatter",
        "tree": "lambdaml.patterns.tree:Tree",
    },
)
