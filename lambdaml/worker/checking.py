"""Checks an update before it is used: first its envelope, then its contents, which the replica checks."""

from __future__ import annotations

from lambdaml.errors import BadObject
from lambdaml.log import keys
from lambdaml.log.records import Update, damaged
from lambdaml.storage.protocol import Bytes
from lambdaml.worker.reading import read
from lambdaml.worker.shared import Shared

_SMALL_BYTES = 2**20
"""An update of more than this size is checked in a thread of its own."""


async def checked_update(shared: Shared, data: Bytes, worker: int, seq: int) -> Update:
    """Unpack and check an update. An update that stays damaged is returned with a fault, so that it is rejected."""
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
