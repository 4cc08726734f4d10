"""Local steps: a worker takes H steps with the job's optimizer from the base, and sends how far it came.

An outer optimizer (`lambdaml.algorithms.outer`) takes the step of the commit along the mean displacement. So a round of
H steps costs the requests and the bytes of one. With `outer=average` this is model averaging (MA-SGD of LambdaML) and
FedAvg (arXiv 1602.05629); with `outer=nesterov` it is DiLoCo (arXiv 2311.08105).

A worker's batches are numbered through its whole life, so H need not divide an epoch; the last update of a run may be
shorter. Step i of an update has the learning rate of the job's schedule at step t + i, where t is the number of steps
that the samples applied so far stand for.

With `auto` each worker chooses its number of steps so that all rounds take the same time: the fastest takes `most`
steps, and the others as many as their speed allows (DyLU of arXiv 2401.09135). Clocks decide it, so the update's header
says it; such a run can be verified, but it does not have the same bits twice.

With `sends=models` an update carries the worker's whole model rather than how far it came, so that workers who began at
different models can be averaged: in the groups of `lambdaml.schedules.groups`, or all together.

With `fragments=F` an update comes after H/F steps and carries one of F parts of the model in turn (Streaming DiLoCo, arXiv
2501.18512): `lambdaml.algorithms.fragments`.

With `ahead=yes` a worker computes from its own model: the base with all that it has made and the base does not hold yet. Its
displacement counts from there. With `outer=sum` and the codec `significant` this is Gaia (Hsieh et al., NSDI 2017),
where each data centre sees all of its own updates at once, and of the others' those that are significant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lambdaml.algorithms import (
    WHOLE_MODEL,
    Assignment,
    Batch,
    LocalModel,
    Message,
    Share,
    in_turn,
    together,
    wrong_batches,
)
from lambdaml.algorithms.fragments import Carried
from lambdaml.algorithms.outer import OUTER_OPTIMIZERS, replace
from lambdaml.codecs import DISPLACEMENT
from lambdaml.errors import SettingsError
from lambdaml.log.memory import Arrays, Memory
from lambdaml.log.records import Entry, Update
from lambdaml.tuners import STEPS, Knob

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from lambdaml.settings import Settings

AUTO, AUTO_STEPS = "auto", 32
"""The word for a number of steps that workers choose, and the number of the fastest worker by default."""

_DONE, OPTIMIZER = "batches", "optimizer"
"""The names of the memory's values that count a worker's batches, if their number depends on clocks, and that hold what
is no tensor in the inner optimizer's state."""


class LocalSteps:
    """Takes `steps` local steps for each update, or for each round of all fragments.

    Args:
        steps: The number of steps, H, or `auto`. Give either this or `epochs`.
        epochs: The number of passes over the worker's data, in place of `steps`.
        outer: The outer optimizer: `average`, `sgd:lr`, `sum`, `nesterov:lr,momentum` or `adam:lr,beta1,beta2,eps`.
        sends: The content of updates: `displacements`, or `models`, whose mean is the new model.
        inner: Whether a worker's inner optimizer keeps its state between updates (`keep`) or begins anew (`anew`). By
            default it is as the method's source has it: `keep` with `nesterov` or models, and otherwise `anew`.
        weights: Whether workers count by their samples (`samples`) or alike (`equal`). By default it is `equal` with
            `nesterov`, `sum` or models, and otherwise `samples`. In a sum they always count alike.
        most: The number of steps of the fastest worker, with `auto`; 0 for 32.
        fragments: The number of fragments of the model, F, which divides H. Each update carries one of them, after H/F
            steps, and the worker remembers its own values of the others. With 1 an update carries the whole model.
        ahead: Whether a worker computes from the base with its own unsent part (`yes`) or from the base (`no`). Unsent
            are the residual that error feedback keeps and the updates without a fate; without error feedback, nothing.
    """

    summands, duals = 1, False

    def __init__(
        self,
        steps: str = "",
        epochs: float = 0.0,
        outer: str = "average",
        inner: str = "",
        weights: str = "",
        most: int = 0,
        fragments: int = 1,
        sends: str = "displacements",
        ahead: str = "no",
    ) -> None:
        self._auto = steps == AUTO
        if not self._auto and not (steps == "" or steps.isdecimal()):
            raise ValueError(f"steps must be a whole number or '{AUTO}', not {steps!r}")
        if (steps == "") == (epochs == 0.0):
            raise ValueError("give the number of steps, as in 'local:20', or of epochs, as in 'local:epochs=1'")
        if not 0 <= epochs < math.inf:
            raise ValueError(f"epochs must be more than 0, not {epochs}")
        if most < 0 or (most and not self._auto):
            raise ValueError(f"most is the number of steps of the fastest worker with '{AUTO}': 1 or more, not {most}")
        _demand_word("inner", inner, "keep", "anew")
        _demand_word("weights", weights, "samples", "equal")
        _demand_word("sends", sends, "displacements", "models")
        _demand_word("ahead", ahead, "yes", "no")
        self._steps = (most or AUTO_STEPS) if self._auto else int(steps or 0)
        self._epochs = epochs
        if not self._steps and not epochs:
            raise ValueError("a worker must take at least one step")
        if fragments < 1:
            raise ValueError(f"fragments must be 1 or more, not {fragments}")
        if fragments > 1 and (self._auto or epochs):
            raise ValueError("fragments need a number of steps that they divide, as in 'local:20,fragments=4'")
        self._models = sends == "models"
        if self._models and (outer != "average" or fragments > 1):
            raise ValueError("models are averaged whole: leave out 'outer' and 'fragments'")
        if self._steps % fragments:
            raise ValueError(
                f"{fragments} fragments do not divide {self._steps} steps: choose a multiple of {fragments}"
            )
        if ahead == "yes" and (fragments > 1 or self._models):
            raise ValueError("ahead=yes needs displacements of the whole model: leave out 'fragments' and 'sends'")
        self.fragments = fragments
        self._steps //= fragments
        try:
            self._outer = replace() if self._models else OUTER_OPTIMIZERS.make(outer)
        except SettingsError as error:
            raise ValueError(str(error)) from None
        if self._outer.adds and weights == "samples":
            raise ValueError(
                f"outer={outer} adds up displacements, in which all workers count alike: leave out weights"
            )
        self._keep = inner == "keep" or (inner == "" and self._outer.keeps)
        self._equal = weights == "equal" or (weights == "" and self._outer.equal)
        self.gives = self._outer.gives | {WHOLE_MODEL if self._models else DISPLACEMENT}
        self.ahead, self.adds = ahead == "yes", self._outer.adds
        self.knob = Knob(STEPS, self._steps, whole=True) if steps.isdecimal() and fragments == 1 else None
        self.keeps_optimizer, self.clocked = self._keep, self._auto
        self.remembers = self.keeps_optimizer or self.clocked or fragments > 1

    def batches(self, per_epoch: int) -> int:
        return self._steps or max(1, round(self._epochs * per_epoch))

    def assign(
        self,
        settings: Settings,
        share: Share,
        worker: int,
        seq: int,
        memory: Memory | None,
        seconds: Mapping[int, float],
    ) -> Assignment:
        most = self.batches(share.batches)
        if not self._auto:
            return in_turn(settings, worker, seq, most)
        assert memory is not None
        speed = min(seconds.values()) / seconds[worker] if seconds.get(worker) else 1.0
        first, count = memory.values.get(_DONE, 0), max(1, round(speed * most))
        left = settings.batches - first if settings.batches is not None else count
        return Assignment(worker, seq, first, min(count, left) if left > 0 else count)

    def check(self, settings: Settings, share: Share, update: Update) -> str:
        most = self.batches(share.batches)
        if self._auto and update.batches is not None:
            first, count = update.batches
            return "" if count <= most and first <= update.seq * most else f"claims {count} batches from {first} on"
        return wrong_batches(update, in_turn(settings, update.worker, update.seq, most))

    def compute(self, model: LocalModel, memory: Memory | None, assignment: Assignment, inner_step: int) -> Message:
        fresh = Memory(assignment.worker)
        carried, start = None, model.values()
        if self.fragments > 1:
            carried = Carried.resume(model, start, self.fragments, memory or fresh)
            model.restore(carried.values)
        at = start
        if self.ahead and model.unsent is not None:
            model.restore(start + model.unsent)
            at = model.values()
        kept = memory if self._keep and memory is not None else fresh
        model.load_optimizer(kept.arrays, kept.values.get(OPTIMIZER))
        done = take_steps(model, assignment, inner_step)
        found = together(done, sum(batch.loss for batch in done) / len(done))
        absent, arrays = found.absent, Arrays()
        values: dict[str, Any] = {_DONE: assignment.first_batch + assignment.batches} if self._auto else {}
        if self._models:
            model.hand_over(start)
            absent = np.empty(0, np.int32)
        elif carried is None:
            model.displace(at)
            if at is not start:
                model.restore(start)
        else:
            absent = carried.send(model, assignment.seq, done)
            arrays, values = carried.kept()
        if self._keep:
            state, values[OPTIMIZER] = model.dump_optimizer()
            arrays |= state
        return Message(found.samples, found.loss, absent, found.labels, arrays=arrays, values=values)

    def outer(self, parameters: Sequence[Tensor]) -> Optimizer | None:
        return self._outer.make(parameters)

    def samples(self, entry: Entry, settings: Settings, share: Share) -> int:
        return self.nominal(settings) if self._equal else share.samples

    def nominal(self, settings: Settings) -> int:
        return -(-settings.samples // settings.sharers)


def _demand_word(name: str, given: str, one: str, other: str) -> None:
    if given not in ("", one, other):
        raise ValueError(f"{name} must be {one!r} or {other!r}, not {given!r}")


def take_steps(
    model: LocalModel, assignment: Assignment, inner_step: int, add: Callable[[], None] = lambda: None
) -> list[Batch]:
    """Take the local steps of an update, and return its batches.

    Args:
        inner_step: The number of the first step in the job's learning-rate schedule.
        add: Adds to the gradient of each batch what is not the loss's.
    """
    done = []
    for number in range(assignment.batches):
        done.append(model.backward(assignment.worker, assignment.first_batch + number))
        add()
        model.step(assignment.worker, assignment.first_batch + number, inner_step + number)
    return done


def variants(steps: int) -> list[str]:
    """Return the variants worth trying with this many steps: model averaging, DiLoCo, FedAdam, Gaia, and even round times."""
    options = ("", ",outer=nesterov", ",outer=adam", ",ahead=yes,outer=sum")
    return [*(f"local:{steps}{option}" for option in options), f"local:auto,most={steps}"]
