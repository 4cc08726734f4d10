"""Watches long waits: it reports each with the worker that is waited for, and gives up one in which nothing happens."""

from __future__ import annotations

from lambdaml.errors import RunFailed
from lambdaml.events import WaitingEvent
from lambdaml.worker.world import World

REPORT_WAIT_S = 10.0
"""A wait longer than this is reported."""


class Waits:
    """The waits of one function, and the time since which nothing has happened.

    Args:
        patience_s: The function gives up when nothing has happened for this long.
    """

    def __init__(self, world: World, patience_s: float) -> None:
        self._world = world
        self._patience_s = patience_s
        self._reported: dict[int, float] = {}
        self._awaited = 0
        self._progress_at = world.now()

    def report(self, worker: int, since: float) -> bool:
        """Report a wait for the worker if it is long, and return whether it was reported."""
        now, self._awaited = self._world.now(), worker
        if now - since > REPORT_WAIT_S and now - self._reported.get(worker, -REPORT_WAIT_S) > REPORT_WAIT_S:
            self._reported[worker] = now
            self._world.emit(WaitingEvent(worker=worker, seconds=round(now - since, 1)))
            return True
        return False

    def progress(self) -> None:
        """Note that something happened, which resets the function's patience."""
        self._progress_at = self._world.now()

    def check(self, busy: bool) -> None:
        """Give up if nothing has happened for too long, whichever worker is waited for.

        Args:
            busy: Whether this function has work to do itself.

        Raises:
            RunFailed: If there was no progress for the run's `patience_s`.
        """
        if busy or self._world.store.patience.failing:
            self.progress()
        elif self._world.now() - self._progress_at > self._patience_s:
            raise RunFailed(
                f"nothing happened for {self._patience_s:.0f} s, waiting for worker {self._awaited}; "
                "resume the run when its cause is mended"
            )
