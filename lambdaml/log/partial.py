"""A partial is the sum of some updates of one commit, as an object in the bucket, together with their headers.

Whoever reads it knows of these updates all that decides their fates, and needs to read none of them. An update that
must be rejected is not in the sum, and its row says why. The buffers of updates are not summed; they lie beside it.

A row is a list: worker, seq, base, base_commit, generation, samples, loss, size of the object in bytes, fault, and at the
end a record of what only some updates have.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lambdaml.errors import BadObject
from lambdaml.log import keys, wire
from lambdaml.log.members import demand_type
from lambdaml.log.records import Body, Update, optional_members, read_optional


@dataclass(slots=True)
class Partial:
    """A sum of updates.

    Attributes:
        commit: The number of the commit that applies them.
        updates: The updates, in the order of their workers, rejected ones too. Their bodies hold what is not summed. The
            sum of one slice of all workers' updates may have none.
        sum: The arrays of the sum, as the machine made them; none if no update could be added. The sum of a single update
            is not scaled.
        faults: The reason to reject an update, by worker, as far as one slice tells.
        squares: The sum of the squares of each worker's numbers in a slice; None for whole updates.
        waited_s: For each update, the seconds from when it was read until the put of this object began.
        ready_s: The seconds from when the object's writer knew the commit before until the put began.
        upload_s: The seconds that the writer's previous put of such an object took, if it made one.
    """

    commit: int
    updates: list[Update]
    sum: Body = field(default_factory=dict)
    faults: dict[int, str] = field(default_factory=dict)
    squares: NDArray[np.float64] | None = None
    waited_s: list[float] = field(default_factory=list)
    ready_s: float = 0.0
    upload_s: float | None = None

    @property
    def size_bytes(self) -> int:
        """The approximate size in memory."""
        return sum(array.nbytes for array in self.sum.values())

    def pack(self) -> bytes:
        """Return the object's bytes. From now on `sum` lies in them."""
        header = {
            "commit": self.commit,
            "updates": [_row(update) for update in self.updates],
            "ready_s": round(self.ready_s, 6),
            "upload_s": None if self.upload_s is None else round(self.upload_s, 6),
            "waited_s": [round(seconds, 3) for seconds in self.waited_s],
            "faults": sorted(self.faults.items()),
        }
        parts = [(f"sum/{name}", array) for name, array in self.sum.items()]
        for number, update in enumerate(self.updates):
            parts += [(f"{number}/{name}", array) for name, array in update.body.items()]
        if self.squares is not None:
            parts.append((_SQUARES, self.squares))
        data, arrays = wire.pack(header, parts)
        self.sum = {name: arrays[f"sum/{name}"] for name in self.sum}
        return data

    @staticmethod
    def read(data: bytes | memoryview, key: str) -> Partial:
        """Read a partial back by its key.

        Raises:
            BadObject: If the object is damaged, or is not the partial that its key names.
            NewerSchema: If it was written by a newer lambdaml.
        """
        header, arrays = wire.unpack(data, key)
        bodies: dict[str, Body] = {}
        squares = arrays.pop(_SQUARES, None)
        for name, array in arrays.items():
            owner, _, rest = name.partition("/")
            bodies.setdefault(owner, {})[rest] = array
        try:
            updates = [_update(row, bodies.pop(str(number), {})) for number, row in enumerate(header["updates"])]
            found = Partial(header["commit"], updates, bodies.pop("sum", {}))
            found.waited_s, found.ready_s, found.upload_s = header["waited_s"], header["ready_s"], header["upload_s"]
            demand_type(found, float, "ready_s", *(["upload_s"] if found.upload_s is not None else []))
            demand_type(found, int, "commit")
            ids = [update.id for update in updates]
            found.faults, found.squares = {int(worker): str(why) for worker, why in header["faults"]}, squares
            timed = len(found.waited_s) >= len(ids) and all(isinstance(each, int | float) for each in found.waited_s)
            if bodies or ids != sorted(set(ids)) or not timed:
                raise ValueError("its parts are not those of its updates")
        except (KeyError, TypeError, ValueError) as error:
            raise BadObject(f"{key} is no partial sum: {error}") from error
        if found.commit != keys.reduced_commit(key):
            raise BadObject(f"{key} holds a sum of commit {found.commit}")
        return found


_SQUARES = "squares"


def _row(update: Update) -> list[Any]:
    loss = update.loss if math.isfinite(update.loss) else None
    more = optional_members(update)
    if update.digest:
        more["function"] = update.function
    if update.batches:
        more["compute_s"] = round(update.compute_s, 6)
    head = [update.worker, update.seq, update.base, update.base_commit, update.generation, update.samples, loss]
    return [*head, update.size_bytes, update.fault, *([more] if more else [])]


def _update(row: list[Any], body: Body) -> Update:
    worker, seq, base, base_commit, generation, samples, loss, size_bytes, fault, *more = row
    members = more[0] if more else {}
    update = Update(
        worker,
        seq,
        base,
        generation,
        members.get("function", ""),
        samples,
        math.nan if loss is None else loss,
        "",
        compute_s=members.get("compute_s", 0.0),
        base_commit=base_commit,
        **read_optional(members),
        body=body,
        size_bytes=size_bytes,
        fault=fault,
        loaded=False,
    )
    demand_type(update, int, "worker", "seq", "base", "base_commit", "generation", "samples", "size_bytes")
    demand_type(update, float, "loss", "compute_s")
    demand_type(update, str, "function", "fault")
    return update
