"""Looks for a wish to stop or to change a setting, and keeps a run with a target close to its evaluation."""

from __future__ import annotations

from collections import deque

from lambdaml.errors import RunFailed
from lambdaml.log import keys, wire
from lambdaml.log.controls import read_control
from lambdaml.log.records import Stop
from lambdaml.worker.reading import read
from lambdaml.worker.shared import Shared

STOP_POLL_S = 1.0
"""The seconds between looks for stop.json. With a target, each snapshot brings one more look."""

RUN_POLL = 5
"""Every look with this number is for run.json instead, since whoever deleted it wants the run to end, too. The look
before it is for a change."""

LEAD = 3
"""A run with a target may be ahead of its evaluation by this many snapshots. Evaluation goes through them in order, so
it always has work; and as the run ends when it gets to the target, the wait takes no time from the run."""

_FIRST_LOOK_S, _MOST_LOOK_S = 0.005, 1.0
"""The first and the longest pause, in seconds, between looks for an evaluation that the run waits for."""

_EVALUATION_S = 60.0
"""A run waits for one evaluation at most this many seconds."""


class StopWatcher:
    """Looks for stop.json, in the function that writes the log.

    Attributes:
        unjudged: The versions of the snapshots written here whose evaluations were not seen, in a run with a target.
    """

    def __init__(self, shared: Shared) -> None:
        self.unjudged: deque[int] = deque()
        self._must_look = False
        self._shared = shared

    @property
    def judging(self) -> bool:
        """Whether the run may end at any evaluation."""
        return self._shared.settings.target is not None and self._shared.wish is None

    def wrote(self, version: int) -> None:
        """Note that a snapshot was written here, which will be evaluated."""
        if self._shared.settings.target is not None:
            self.unjudged.append(version)
            self._must_look = len(self.unjudged) < LEAD  # from then on, `keep_lead` looks as often

    async def keep_lead(self) -> None:
        """Keep a run with a target close to its evaluation: note which snapshots have been evaluated, and look for the
        stop that each evaluation may have asked for."""
        shared = self._shared
        while self.judging:
            await shared.until(lambda: shared.writes_log and len(self.unjudged) >= LEAD)
            await self._evaluation(self.unjudged[0])
            await self._look()
            self.unjudged.popleft()
            shared.changed()

    async def _evaluation(self, version: int) -> None:
        """Wait until a snapshot has been evaluated, but not forever, since perhaps nobody evaluates."""
        world = self._shared.world
        end_s, pause_s = world.now() + min(_EVALUATION_S, self._shared.settings.patience_s / 2), _FIRST_LOOK_S
        while self._shared.wish is None and world.now() < end_s:
            if await world.store.head(keys.metrics(version)) is not None:
                return
            await world.sleep(pause_s * world.uniform(1.0, 1.5))
            pause_s = min(1.5 * pause_s, _MOST_LOOK_S)

    async def watch(self, fresh: bool) -> None:
        """Look for stop.json now and then, and whenever a snapshot of a run with a target was written.

        Args:
            fresh: Whether the run is new. One that goes on may have been asked to stop while nobody worked on it, so the
                first look is at once.
        """
        shared, world = self._shared, self._shared.world
        if shared.writes_log and not fresh:
            await self._look()
        due_s, looks = world.now() + STOP_POLL_S, 0
        while self._shared.wish is None:
            asked = await shared.until(lambda: self._must_look, max(0.0, due_s - world.now()))
            if not asked:
                due_s, looks = world.now() + STOP_POLL_S, looks + 1
            self._must_look = False
            if not shared.writes_log:
                continue
            if not asked and looks % RUN_POLL == RUN_POLL - 1:
                await self._look_for_change()
            elif asked or looks % RUN_POLL:
                await self._look()
            elif await world.store.head(keys.RUN) is None:
                raise RunFailed(f"{keys.RUN} is not there any more: was the run deleted while it went on?")

    async def _look_for_change(self) -> None:
        shared, number = self._shared, self._shared.known.controls
        if shared.control is None or shared.control.number < number:
            shared.control = await read(shared.world, keys.control(number), read_control)

    async def _look(self) -> None:
        if (record := await read(self._shared.world, keys.STOP, wire.load_json)) is not None:
            self._shared.wish = Stop(record["reason"], record["version"])
            self._shared.changed()
