"""What a replica does in a run whose workers have models of their own: it averages these, and computes from one of them."""

from __future__ import annotations

from collections.abc import Mapping

from lambdaml.log.records import Body, Entry, Update
from lambdaml.parts import Parts
from lambdaml.training.job_model import JobModel
from lambdaml.training.rows import Rows
from lambdaml.training.step_sum import StepParts

_MODEL = "gradient"
"""The array of a body that holds the trained parameters; exact codecs name it so."""


class OwnRounds:
    """The rounds of such a run, as one replica computes them.

    Args:
        model: The replica's model. It holds a worker's model only while something is computed from it.
        rows: Finds the places of vectors that travel by rows.
    """

    def __init__(self, parts: Parts, model: JobModel, rows: Rows) -> None:
        self._parts, self._model, self._rows = parts, model, rows
        self._before = [0]  # the samples of all workers before each round

    def averaging(self, turnout: Mapping[int, float]) -> ModelMean:
        """Begin a mean of models.

        Args:
            turnout: The number of times that a worker's model counts, if that is not once.
        """
        return ModelMean(self, StepParts(self._model, self._rows, self._parts), self._model, turnout)

    def whole(self) -> Body:
        """Return a copy of the trained parameters and all buffers, as the body of an update has them."""
        buffers = self._model.buffers
        return {_MODEL: self._model.values(), **buffers.changes(buffers.keep())}

    def put(self, body: Body) -> None:
        """Set the trained parameters and all buffers to those in a body."""
        vector = body[_MODEL]
        self._model.restore(vector if vector.flags.writeable else vector.copy())
        rest = {name: array for name, array in body.items() if name != _MODEL}
        self._model.buffers.merge([rest], [1.0], [True])

    def samples_before(self, turn: int) -> int:
        """Return the number of samples that all workers use before a round."""
        model, algorithm = self._model, self._parts.algorithm
        settings, sampler = model.settings, model.sampler
        for number in range(len(self._before) - 1, turn):
            used = 0
            for worker in range(settings.workers):
                share = sampler.share(worker, number)
                due = algorithm.assign(settings, share, worker, number, None, {})
                used += sampler.samples_in(share.number, due.first_batch, due.batches)
            self._before.append(self._before[-1] + used)
        return self._before[turn]


class ModelMean:
    """The mean of several workers' models. Their buffers are averaged in the replica's model."""

    def __init__(self, rounds: OwnRounds, total: StepParts, model: JobModel, turnout: Mapping[int, float]) -> None:
        self._rounds, self._sum, self._model, self._turnout = rounds, total, model, turnout
        self._entries: list[Entry] = []

    def add(self, update: Update) -> None:
        """Add the model in an update. Workers come in rising order. The update may be freed then."""
        entry = Entry(
            *(update.worker, update.seq, update.base, update.generation, update.samples, update.loss),
            staleness=0,
            weight=1.0,
        )
        self._model.turnout = self._turnout
        self._sum.add(entry, update)
        self._entries.append(entry)

    def finish(self) -> Body:
        """Return the mean, as the body of an update has it."""
        self._model.turnout, total = self._turnout, self._sum
        weighed = total.weighed(self._entries)
        vector = total.averaged(weighed)
        self._model.buffers.merge(total.rest, total.shares(weighed), total.fresh)
        return {**self._rounds.whole(), _MODEL: vector}
