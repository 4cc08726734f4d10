"""Reads an object in a function, and reads it again before it counts as damaged; see `lambdaml.log.reads`."""

from __future__ import annotations

from lambdaml.log.reads import T, Unpack, reread
from lambdaml.storage.protocol import Bytes
from lambdaml.worker.world import World


async def read(world: World, key: str, unpack: Unpack[T], data: Bytes | None = None) -> T | None:
    """Return the value that the object holds, or None if there is no object.

    Args:
        data: The bytes that a first reading found, if there was one already.

    Raises:
        BadObject: If no reading was whole. It is the error of the last reading.
    """
    return await reread(world.store.get, world.sleep, key, unpack, data)
