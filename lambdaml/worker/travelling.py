"""One worker's part in a tuned run: it lets its own model travel when its turn comes, and judges those of others."""

from __future__ import annotations

from lambdaml.log import keys
from lambdaml.log.records import Body, Update
from lambdaml.log.travel import read_travel
from lambdaml.worker.looking import missing
from lambdaml.worker.reading import read
from lambdaml.worker.shared import Shared


class Travelling:
    """The travelling models that one worker sees. In a run without a tuner it does nothing.

    Nothing is remembered: which model travels follows from the number of an update, and a worker's next update is
    computed only once that model exists. So a successor judges what this worker would have.

    Args:
        worker: The worker's number.
    """

    def __init__(self, shared: Shared, worker: int) -> None:
        self._shared, self._worker = shared, worker
        self._travels = shared.replica.travels
        self._visitor: Body | None = None
        self._leaving: bytes | None = None

    async def arrive(self, seq: int) -> None:
        """Read the model that the update `seq` judges, if it judges one.

        Raises:
            RunFailed: If that model is not there any more.
        """
        home = self._travels.tuning.home(seq) if self._travels is not None else None
        self._visitor = None
        if home is not None:
            key = keys.travel(home, seq - 1)
            self._visitor = await read(self._shared.world, key, read_travel)
            if self._visitor is None:
                raise missing(key)

    def judge(self, seq: int) -> tuple[int, int] | None:
        """Judge the model that has arrived, if there is one."""
        if self._travels is None or self._visitor is None:
            return None
        return self._travels.judge(self._worker, seq, self._visitor)

    def pack(self, update: Update) -> None:
        """Pack the worker's own model, if it travels after this update, which was just computed."""
        turn = self._travels is not None and self._travels.tuning.home(update.seq + 1) == self._worker
        self._leaving = self._travels.own(update) if self._travels is not None and turn else None

    async def leave(self, update: Update) -> None:
        """Create the object of the packed model. The update is created afterwards."""
        data, self._leaving = self._leaving, None
        if data is not None:
            await self._shared.world.store.create(keys.travel(*update.id), data)
