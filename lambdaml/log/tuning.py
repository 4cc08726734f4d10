"""Tuning: how a run's log decides what the value of its knob is. It does no I/O.

Every so many rounds the model of one worker, each in turn, travels: it is an object that its worker creates before the
last update of these rounds. With the next update each worker tells how many answers of that model were right on data of
its own (`Update.judged`). The commit of that round has the accuracy loss and what was sent since the last decision; the
tuner (`lambdaml.tuners`) turns the knob, and the change is a control entry of that commit. So the value is a pure function
of the log, which every function derives, and `verify` derives it again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING

from lambdaml.log.records import Control, Update
from lambdaml.log.state import LogState
from lambdaml.log.tuned import DERIVED, Tuned
from lambdaml.tuners import STEPS, Knob, Observation, Tuner

if TYPE_CHECKING:
    from lambdaml.algorithms import Assignment
    from lambdaml.parts import Parts
    from lambdaml.settings import Settings

_NUMBER_BYTES = 4


@dataclass(frozen=True, slots=True)
class Tuning:
    """The tuning of one run.

    Attributes:
        tuner: The tuner.
        knob: The knob that it turns, as the run began with it.
        workers: The number of workers.
        model_bytes: The size of the whole model.
    """

    tuner: Tuner
    knob: Knob
    workers: int
    model_bytes: int

    @staticmethod
    def of(settings: Settings, parts: Parts) -> Tuning | None:
        """Return the tuning of a run, or None if it is not tuned."""
        if parts.tuner is None or parts.knob is None:
            return None
        return Tuning(parts.tuner, parts.knob, settings.workers, max(1, _NUMBER_BYTES * settings.parameters))

    def home(self, seq: int) -> int | None:
        """Return the worker whose model is judged by the updates of this number, and travelled with those before; None if
        none is."""
        trip, rest = divmod(seq, self.tuner.every)
        return (trip - 1) % self.workers if trip and not rest else None

    def batches(self, log_state: LogState) -> int | None:
        """Return the number of batches that the next update of each worker covers, if that is what the knob says."""
        return int(log_state.changed.get(STEPS, self.knob.value)) if self.knob.name == STEPS else None

    def assign(self, log_state: LogState, due: Assignment) -> Assignment:
        """Return what to compute for the next update, given what that would be without a tuner."""
        batches = self.batches(log_state)
        if batches is None:
            return due
        first = log_state.tuned.batches if log_state.tuned is not None else 0
        return replace(due, first_batch=first, batches=batches)

    def account(self, log_state: LogState, updates: Iterable[Update]) -> tuple[Tuned, Control | None]:
        """Return what the next commit says of these updates, all that it decides, and the change that it makes."""
        told = sorted(updates, key=lambda update: update.id)
        batches = self.batches(log_state)
        sent = Tuned(sum(update.body_bytes for update in told), len(told), batches or 0)
        loss = self._loss(told)
        if loss is None:
            return sent, None
        known = log_state.tuned or Tuned()
        share = (known.sent_bytes + sent.sent_bytes) / (known.updates + sent.updates) / self.model_bytes
        state, value = self.tuner.turn(self.knob, known.state or {}, Observation(loss, share / (batches or 1)))
        value = max(1, round(value)) if self.knob.whole else value
        change = Control(DERIVED, self.knob.name, value)
        now = log_state.changed.get(self.knob.name, self.knob.value)
        return replace(sent, loss=loss, state=state), change if value != now else None

    def _loss(self, updates: Sequence[Update]) -> float | None:
        """Return the accuracy loss that the updates of a round tell of; None if they judged no model at home and elsewhere."""
        home = self.home(updates[0].seq)
        if home is None:
            return None
        shares = {update.worker: update.judged[0] / update.judged[1] for update in updates if update.judged}
        at_home = shares.pop(home, None)
        return None if at_home is None or not shares else at_home - fmean(shares.values())
