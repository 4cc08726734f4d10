"""Where an update is checked before it is used: first its envelope, then by the replica what it holds."""

from __future__ import annotations

from lambdaml.errors import BadObject
from lambdaml.log import keys
from lambdaml.log.records import Update, damaged
from lambdaml.storage.protocol import Bytes
from lambdaml.worker.reading import read
from lambdaml.worker.shared import Shared

_SMALL_BYTES = 2**20
"""An update of more than this is checked in a thread of its own."""


async def checked_update(shared: Shared, data: Bytes, worker: int, seq: int) -> Update:
    """Unpack and check an update. One that stays damaged is returned with its fault, so that it is rejected."""
    world, check = shared.world, shared.replica.check
    try:
        update = await read(world, keys.update(worker, seq), Update.read, data)
    except BadObject:
        update = None
    if update is None:
        return damaged(worker, seq, len(data))
    found, small = update, update.size_bytes <= _SMALL_BYTES
    found.fault = check(found) if small else await world.background(lambda: check(found))
    return found
