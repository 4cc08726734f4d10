"""What an exchange need not do if nobody waits for it: the members of `lambdaml.patterns.Exchange` that most share."""

from __future__ import annotations

from lambdaml.log.records import Commit


class PlainExchange:
    """An exchange whose workers compute from the function's model, and whose commits follow each other at once."""

    def ready(self, worker: int, seq: int) -> bool:
        """Return True: all workers compute from the function's model."""
        return True

    async def await_turn(self) -> None:
        """Do nothing: a commit may follow at once."""

    async def applied(self, commit: Commit) -> None:
        """Do nothing: nobody waits for what follows."""

    def delivered(self, commits: int) -> bool:
        """Return True: what others need was there before the commit."""
        return True

    async def lead(self) -> None:
        """Do nothing: the replica is whole."""
