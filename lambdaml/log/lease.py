"""Leases, as the bucket holds them: a function works as a worker while it holds the worker's newest lease."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from lambdaml.errors import BadObject
from lambdaml.log import keys, wire
from lambdaml.log.members import demand_type, known


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease: `function` works as `worker` until `duration_s` after this lease, or the worker's latest update, was
    written, by the store's clock.

    A lease with `released` set is free at once. One with `backup` set is held in place of the function that the worker
    is meant for, which may take it at any time.
    """

    worker: int
    generation: int
    function: str
    duration_s: float
    released: bool = False
    backup: bool = False

    def pack(self) -> bytes:
        return wire.dump_json(asdict(self))

    @staticmethod
    def unpack(data: bytes | memoryview, worker: int, generation: int) -> Lease:
        key = keys.lease(worker, generation)
        try:
            lease = known(Lease, wire.load_json(data, key))
            demand_type(lease, int, "worker", "generation")
            demand_type(lease, float, "duration_s")
            demand_type(lease, str, "function")
        except TypeError as error:
            raise BadObject(f"{key} is not a lease: {error}") from error
        if (lease.worker, lease.generation) != (worker, generation):
            raise BadObject(f"{key} holds the lease of worker {lease.worker}, generation {lease.generation}")
        return lease

    @staticmethod
    def read(data: bytes | memoryview, key: str) -> Lease:
        """Read a lease back by its key; see `unpack`."""
        _, worker, generation = key.split("/")
        return Lease.unpack(data, int(worker), int(generation))
