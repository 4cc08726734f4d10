"""Puts the slices of a large update as objects of their own, some at once, while the next are written out.

The update's object comes last, so whoever finds it finds all of them. A slice that exists already was put by another
function that worked as the same worker: it computed the same numbers.
"""

from __future__ import annotations

from lambdaml.log import keys
from lambdaml.log.records import Update
from lambdaml.worker.shared import Shared


async def put_blocks(shared: Shared, update: Update) -> None:
    """Put all slices of an update that was just computed, and free its vector. Until then the machine's vector must not
    change."""
    slicing, slices = update.apart, shared.replica.slices
    header = update.header() | {"upload_s": 0.0}  # a block says when the first was put: others may look from then on
    assert slicing is not None and slices is not None
    world, body = shared.world, update.body

    async def put(index: int) -> None:
        owner = "put", *update.id, index
        await shared.room.take(owner, slices.size_bytes(index))
        try:
            data = await world.compute(lambda: slicing.block(index, header, body))
            await world.store.create(keys.block(*update.id, index), data)
        finally:
            shared.room.give(owner)

    await world.gather(*[put(index) for index in range(slicing.count)])
    cut = {part.name for part in slicing.parts}
    update.body = {name: array for name, array in body.items() if name not in cut}
