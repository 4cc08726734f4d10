"""Reads an object in a function, and reads it again before it counts as damaged; see `lambdaml.log.reads`."""

from __future__ import annotations

from lambdaml.errors import BadObject
from lambdaml.log.reads import PAUSES_S, T, Unpack
from lambdaml.storage.protocol import Bytes
from lambdaml.worker.world import World


async def read(world: World, key: str, unpack: Unpack[T], data: Bytes | None = None) -> T | None:
    """Return the value that the object holds, or None if there is no object.

    Args:
        data: The bytes that a first reading found, if there was one already.

    Raises:
        BadObject: If no reading was whole. It is the error of the last reading.
    """
    data = await world.store.get(key) if data is None else data
    for pause_s in PAUSES_S:
        try:
            return None if data is None else unpack(data, key)
        except BadObject:
            await world.sleep(pause_s)
            data = await world.store.get(key)
    return None if data is None else unpack(data, key)
