"""Algorithms: what a worker computes from a base, and what a commit does with the weighted mean. Each has its own file.

An algorithm has no state and makes no requests. What its workers remember is in their memories (`lambdaml.log.memory`).
To add one, write a file with a class that has the members of `Algorithm`, and add one line to `ALGORITHMS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lambdaml.codecs import Layout, Vector
from lambdaml.log.memory import Arrays, Memory
from lambdaml.log.records import Body, Entry, Update
from lambdaml.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from lambdaml.settings import Settings

GRADIENT = "gradient"
"""An algorithm gives this if its vectors are gradients at their base. Rules that correct gradients need it."""

PARTIAL_SUM = "partial sum"
"""An algorithm gives this if its vectors are sums of (samples / nominal) x gradient."""

STATISTICS = "mean statistic"
"""An algorithm gives this if its vectors are the means of a job's statistics, of which the parameters are means, too."""

WHOLE_MODEL = "model"
"""An algorithm gives this if its vectors are the trained parameters themselves, whose mean is the new model."""

AS_SENT = frozenset({STATISTICS, WHOLE_MODEL})
"""Vectors that stand for themselves, rather than for a step: their mean is to arrive as it is."""

MOMENTUM = "momentum"
"""A rule or an outer optimizer gives this if it adds momentum to the steps of the run. No two of a run may."""


@dataclass(frozen=True, slots=True)
class Share:
    """The part of the data from which an update is computed.

    Attributes:
        number: The number of the worker whose data it is; in a run of cohorts, of the one that takes the slot.
        samples: The number of samples in a pass over it.
        batches: The number of batches in a pass over it.
    """

    number: int
    samples: int
    batches: int


@dataclass(frozen=True, slots=True)
class Assignment:
    """An update that is to be computed, and the batches that it covers.

    Attributes:
        worker: The worker.
        seq: The number of the update.
        first_batch: The first of the worker's batches, counted through its whole life.
        batches: The number of batches; if an update is a sum of gradients, that of each of the workers that it sums over.
    """

    worker: int
    seq: int
    first_batch: int
    batches: int


@dataclass(frozen=True, slots=True)
class Batch:
    """The result of one forward and backward pass, whose gradient is then in the model.

    Attributes:
        samples: The number of samples.
        loss: The loss.
        absent: The numbers of the parameters that the backward pass did not reach, int32 and rising.
        labels: The number of samples of each class, if the run's staleness rule asks for that.
    """

    samples: int
    loss: float
    absent: NDArray[np.int32]
    labels: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Message:
    """The result of computing an update. The vector itself is then in the model's flat gradient.

    Attributes:
        samples: The number of samples that were used.
        loss: The mean loss of the batches.
        absent: The numbers of the parameters that no batch reached, int32 and rising.
        labels: The number of samples of each class, if the run's staleness rule asks for that.
        arrays: The arrays that the worker remembers from now on.
        values: The plain values that the worker remembers from now on.
        buffers: The buffers that the batches of a sum changed.
        residuals: The primal and the dual residual of the consensus at the base, if the algorithm has duals and knows them.
    """

    samples: int
    loss: float
    absent: NDArray[np.int32]
    labels: tuple[int, ...] = ()
    arrays: Arrays = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    buffers: Body = field(default_factory=dict)
    residuals: tuple[float, ...] = ()


class GradientSum(Protocol):
    """A sum of gradients, each of which is computed from the same parameters and buffers."""

    def add(self, worker: int, samples: int) -> None:
        """Add (samples / nominal) x the gradient that the latest backward pass, over a batch of this worker, left in the
        model, and set the buffers back. Workers come in rising order."""
        ...

    def finish(self) -> Body:
        """Leave the sum in the flat gradient, and return the buffers that each batch changed."""
        ...


class LocalModel(Protocol):
    """The model of one function at the base of an update, as an algorithm uses it.

    Whatever it does to the parameters must be undone by `displace` or `hand_over`. Buffers are saved and restored around it.

    Attributes:
        layout: The layout of flat vectors: a tensor for each trained parameter.
        commit: The number of commits that the parameters rest on.
        unsent: How far the worker's own model is ahead of the base (`lambdaml.training.feedback`), if the algorithm asks
            for it; None if it is not ahead.
    """

    @property
    def layout(self) -> Layout: ...

    @property
    def commit(self) -> int: ...

    @property
    def unsent(self) -> Vector | None: ...

    def backward(self, worker: int, batch: int) -> Batch:
        """Compute the gradient of one of a worker's batches, and leave it in the model and in the flat gradient.

        Args:
            worker: The worker; if updates are sums of gradients, one of those that they sum over.
        """
        ...

    def summing(self) -> GradientSum:
        """Begin a sum of gradients."""
        ...

    def statistics(self, worker: int, batches: range) -> Batch:
        """Compute the mean of the job's statistics over some of a worker's batches, and leave it in the flat gradient.

        Returns:
            Their samples, and the mean of the job's objective.
        """
        ...

    def step(self, worker: int, batch: int, inner_step: int) -> None:
        """Take a step with the job's optimizer along the gradient in the model, clipped as the job says.

        Args:
            inner_step: The number of the step in the job's learning-rate schedule.
        """
        ...

    def values(self) -> Vector:
        """Return a copy of the trained parameters in one flat vector."""
        ...

    def restore(self, values: Vector) -> None:
        """Set the trained parameters to these values."""
        ...

    def pull(self, centre: Vector, strength: float) -> None:
        """Add to the gradient in the model that of `strength` / 2 times the squared distance from `centre`, which reaches
        all parameters."""
        ...

    def displace(self, start: Vector) -> None:
        """Leave in the flat gradient how far the parameters are from `start`, and set them back to `start`."""
        ...

    def hand_over(self, start: Vector) -> None:
        """Leave in the flat gradient the parameters themselves, and set them back to `start`."""
        ...

    def load_optimizer(self, arrays: Arrays, values: Mapping[str, Any] | None) -> None:
        """Load what `dump_optimizer` returned into the job's optimizer; with None, make its state anew."""
        ...

    def dump_optimizer(self) -> tuple[Arrays, dict[str, Any]]:
        """Return the state of the job's optimizer as arrays and plain values."""
        ...


class Algorithm(Protocol):
    """Says what workers compute and remember, and which optimizer takes the step of a commit.

    Attributes:
        gives: The set of what it gives to other parts of the run: `GRADIENT`, `PARTIAL_SUM`, `DISPLACEMENT`, `WHOLE_MODEL` or
            `STATISTICS`, and `MOMENTUM`.
        remembers: Whether its workers remember something between their updates.
        keeps_optimizer: Whether that includes the state of their inner optimizers.
        clocked: Whether clocks decide how many batches an update covers.
        summands: The number of workers of a run with `gradient` whose updates an update is the sum of, each with the
            factor samples / nominal; 1 if updates are no sums. Worker w sums over the workers w * summands and following
            of a run with `summands` times as many.
        fragments: The number of fragments into which the parameters are divided (`lambdaml.algorithms.fragments`). Update
            s of a worker carries fragment s mod `fragments` alone; 1 if updates carry all parameters.
        duals: Whether its workers remember dual variables. These belong to the worker's share of the data and to the newest
            model, so shares stay the same in all epochs, and all workers take part in each round.
        ahead: Whether a worker computes from its own model: the base with what the worker has not sent yet.
        adds: Whether the step of a commit goes along the sum of the vectors, and not along their mean.
    """

    gives: frozenset[str]
    remembers: bool
    keeps_optimizer: bool
    clocked: bool
    summands: int
    fragments: int
    duals: bool
    ahead: bool
    adds: bool

    def batches(self, per_epoch: int) -> int:
        """Return the most batches that an update covers, if a worker has `per_epoch` batches in an epoch."""
        ...

    def assign(
        self,
        settings: Settings,
        share: Share,
        worker: int,
        seq: int,
        memory: Memory | None,
        seconds: Mapping[int, float],
    ) -> Assignment:
        """Return what to compute for an update.

        Args:
            share: The share of the data that it is computed from.
            memory: The worker's memory before the update; None in a run without memory.
            seconds: The latest known seconds that a batch takes, by worker.
        """
        ...

    def check(self, settings: Settings, share: Share, update: Update) -> str:
        """Return what is wrong with the batches of its share that an update claims to cover, or ""."""
        ...

    def compute(self, model: LocalModel, memory: Memory | None, assignment: Assignment, inner_step: int) -> Message:
        """Compute an update, and leave its vector in the model's flat gradient. The memory is not changed.

        Args:
            assignment: The assignment, for the worker whose data it covers.
            inner_step: The number of steps of a single worker that the samples applied so far stand for.
        """
        ...

    def outer(self, parameters: Sequence[Tensor]) -> Optimizer | None:
        """Return the optimizer that takes a commit's step along the mean displacement, along the sum if the algorithm
        adds, or to the mean model. None if the vectors are gradients or statistics, along whose mean the job's own
        optimizer takes the step."""
        ...

    def samples(self, entry: Entry, settings: Settings, share: Share) -> int:
        """Return the number of samples that an update, computed from this share, counts for in the mean of its step."""
        ...

    def nominal(self, settings: Settings) -> int:
        """Return the number of samples that most updates count for: these are summed without being scaled."""
        ...


def together(batches: Sequence[Batch], loss: float) -> Batch:
    """Return the samples, absent parameters and labels of several batches, with this loss."""
    absent = batches[0].absent
    for batch in batches[1:]:
        absent = np.intersect1d(absent, batch.absent)
    longest = max(len(batch.labels) for batch in batches)
    labels = (sum(batch.labels[label] for batch in batches if label < len(batch.labels)) for label in range(longest))
    return Batch(sum(batch.samples for batch in batches), loss, absent, tuple(labels))


def covers_batches(algorithm: Algorithm) -> bool:
    """Return whether the headers of an algorithm's updates say which batches they cover. Otherwise each covers one."""
    return not algorithm.gives & {GRADIENT, PARTIAL_SUM}


def in_turn(settings: Settings, worker: int, seq: int, most: int) -> Assignment:
    """Return what to compute if each update of a worker covers this many batches, and the last one those that are left."""
    first = seq * most
    left = settings.batches - first if settings.batches is not None else most
    return Assignment(worker, seq, first, min(most, left) if left > 0 else most)


def wrong_batches(update: Update, due: Assignment) -> str:
    """Return how the batches that an update claims to cover differ from those that are due, or ""."""
    if update.batches is None:
        return "does not say which batches it covers"
    (first, count), right = update.batches, (due.first_batch, due.batches)
    return (
        "" if update.batches == right else f"claims {count} batches from {first} on, not {right[1]} from {right[0]} on"
    )


ALGORITHMS: Registry[Algorithm] = Registry(
    "algorithm",
    {
        "gradient": "lambdaml.algorithms.gradient:GradientDescent",
        "local": "lambdaml.algorithms.local:LocalSteps",
        "admm": "lambdaml.algorithms.admm:Consensus",
        "presum": "lambdaml.algorithms.presum:Accumulation",
        "statistics": "lambdaml.algorithms.statistics:Statistics",
    },
)
