"""Reads a whole update, wherever its slices lie. Only replay and checks need one; see `lambdaml.patterns.blocks`."""

from __future__ import annotations

from lambdaml.errors import BadObject
from lambdaml.log import keys, wire
from lambdaml.log.reads import demand_present, read_now
from lambdaml.log.records import Body, Update
from lambdaml.log.slices import Block
from lambdaml.storage.protocol import Bytes, Store


def read_update(store: Store, key: str, data: Bytes | None = None) -> Update | None:
    """Return an update with its whole vector, or None if there is no such update.

    Args:
        data: The bytes of its object that a first reading found, if there was one already.

    Raises:
        BadObject: If one of its objects is damaged or missing.
    """
    update = read_now(store, key, Update.read, data)
    if update is not None and update.apart is not None:
        blocks = [_block(store, update, index) for index in range(update.apart.count)]
        update.body = update.body | update.apart.join(blocks)
    return update


def _block(store: Store, update: Update, index: int) -> Block:
    slicing, key = update.apart, keys.block(*update.id, index)
    assert slicing is not None

    def unpack(data: Bytes, key: str) -> Block:
        return slicing.read_of(update.id, data, index, key)

    return demand_present(read_now(store, key, unpack), key)


def dump_vector(commit: int, name: str, body: Body) -> bytes:
    """Return the bytes of the object with the vector of a sum."""
    return wire.pack({"commit": commit, "name": name}, list(body.items()))[0]


def load_vector(data: Bytes, key: str) -> Body:
    """Read the vector of a sum.

    Raises:
        BadObject: If the object is damaged, or is that of another sum.
    """
    header, body = wire.unpack(data, key)
    if key != f"{keys.SUMS}{header.get('commit', -1):010d}/{header.get('name')}":
        raise BadObject(f"{key} holds the vector of {header}")
    return body
