"""The selective barrier: a worker whose data are late announces them, and the others start nothing until they are there.

In Gaia (Hsieh et al., NSDI 2017) a data centre sends the places of its significant numbers first if the numbers themselves
take long, and receivers hold back reads of these parameters. Here it is coarse: what is held back is the start of whole updates,
whichever parameters the announcement names.

A worker's next update is late if its previous one took longer to upload than the run's `announce_s`. Its announcement is
created before the update, and deleted once that exists. Before each start a worker looks for the announcements of the
others' next updates, at N computable keys, and waits for the fates of those that it finds.

Nobody waits for ever: a worker whose own announcement stands does not look further, so whoever others wait for, or the function
that takes over from it, makes that update.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from lambdaml.log import keys, wire
from lambdaml.log.records import Update
from lambdaml.worker.shared import Shared

_INDEX = "index"
"""The part of an update's body, and of its announcement, that says the places of the numbers."""


class Barrier:
    """The barrier of one worker.

    Args:
        worker: The worker.
    """

    def __init__(self, shared: Shared, worker: int) -> None:
        self._shared, self._worker = shared, worker
        self._limit_s = shared.settings.announce_s

    async def announce(self, update: Update, upload_s: float | None) -> bool:
        """Announce an update if the one before took too long to upload, and return whether that was done."""
        if self._limit_s is None or upload_s is None or upload_s <= self._limit_s:
            return False
        places: list[tuple[str, NDArray[Any]]] = [(_INDEX, update.body[_INDEX])] if _INDEX in update.body else []
        data, _ = wire.pack({"worker": update.worker, "seq": update.seq}, places)
        await self._shared.world.store.create(keys.announcement(*update.id), data)
        return True

    async def withdraw(self, update: Update) -> None:
        """Delete the announcement of an update that exists."""
        await self._shared.world.store.delete([keys.announcement(*update.id)])

    async def held(self, seq: int) -> bool:
        """Look for announced updates of other workers before the start of update `seq`, and wait until they have their fates.

        Returns:
            Whether there were any, so that everything may be different now.
        """
        shared, worker = self._shared, self._worker
        if self._limit_s is None:
            return False
        due = [seq if other == worker else number for other, number in enumerate(shared.queued.next_seq)]
        found = await shared.world.store.get_many([keys.announcement(*each) for each in enumerate(due)])
        late = [other for other, data in enumerate(found) if data is not None]
        if not late or worker in late:
            return False

        def over() -> bool:
            taken = shared.ending or shared.known.next_seq[worker] > seq
            return taken or all(shared.queued.next_seq[other] > due[other] for other in late)

        await shared.until(over)
        return True
