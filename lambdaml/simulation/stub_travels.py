"""Travelling models of a `StubReplica`: hashes that others judge by hashes, and updates whose size follows the knob."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from lambdaml.log.records import Body, Update
from lambdaml.log.travel import pack_travel
from lambdaml.log.tuning import Tuning

if TYPE_CHECKING:
    from lambdaml.simulation.stub_replica import StubReplica

_OWN, _SENT = "own", "sent"
_SAMPLES, _MOST_BYTES = 16, 64


class StubTravels:
    """What a stub does with travelling models. It is a `lambdaml.worker.travels.Travels`."""

    def __init__(self, replica: StubReplica, tuning: Tuning) -> None:
        self._replica, self.tuning = replica, tuning

    @staticmethod
    def of(replica: StubReplica) -> StubTravels | None:
        """Return the part of a replica that handles travelling models; None if its run is not tuned."""
        tuning = Tuning.of(replica.settings, replica.parts)
        return None if tuning is None else StubTravels(replica, tuning)

    def body(self) -> Body:
        """Return the body of an update: the greater the knob's value is, the fewer bytes."""
        value = self._replica.log_state.changed.get(self.tuning.knob.name, self.tuning.knob.value)
        return {_SENT: np.zeros(max(1, min(_MOST_BYTES, int(8 / value))), np.uint8)}

    def own(self, update: Update) -> bytes:
        """Return the bytes of a model that stands for its worker's own, right after this update was computed."""
        return pack_travel(*update.id, {_OWN: np.array([update.loss])})

    def judge(self, worker: int, seq: int, body: Body) -> tuple[int, int] | None:
        """Return how many answers of a model are right on data of this worker, and of how many."""
        text = body[_OWN].tobytes() + b"%d/%d" % (worker, seq)
        return hashlib.blake2b(text, digest_size=1).digest()[0] % (_SAMPLES + 1), _SAMPLES
