"""A travelling model: the own model of a worker of a tuned run, which all workers judge (`lambdaml.log.tuning`).

Its parameters are written with the codec `int8`, so an object takes a quarter of the model's bytes. Buffers that the
worker's latest update carries are there as the update has them.
"""

from __future__ import annotations

from lambdaml.codecs import CODECS, Layout
from lambdaml.errors import BadObject
from lambdaml.log import keys, wire
from lambdaml.log.records import Body
from lambdaml.storage.protocol import Bytes

CODEC = "int8"
"""The name of the codec of the parameters of a model that travels."""


def travel_bytes(parameters: int) -> int:
    """Return the bytes that this many parameters take in a model that travels."""
    return CODECS.make(CODEC).expected_bytes(Layout.flat(parameters))


def pack_travel(worker: int, seq: int, body: Body) -> bytes:
    """Return the object of a model that travels after a worker's update `seq` was computed."""
    return wire.pack({"worker": worker, "seq": seq}, list(body.items()))[0]


def read_travel(data: Bytes, key: str) -> Body:
    """Read a travelling model back.

    Raises:
        BadObject: If the object is damaged, or is not the one that the key names.
    """
    header, body = wire.unpack(data, key)
    if (header.get("worker"), header.get("seq")) != keys.update_id(key):
        raise BadObject(f"{key} holds another model")
    return body
