"""The truth: the models that come out if some clients are left out, with the same sampling and their slots empty.

All of them are trained side by side: a local step is one pass over a batch with a stack of models, by `torch.func.vmap`, which
gives what single passes give within rounding. Losses that it cannot vectorise, such as those that look at a value, are computed
one model after the other.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from lambdaml.errors import SettingsError
from lambdaml.influence.federated import ClientTurn, FederatedRun, Round
from lambdaml.influence.recursion import shares_of, stays_in
from lambdaml.training.functional_loss import FunctionalLoss, alike


class Retraining:
    """Trains a model for each of several sets of clients that are left out, from the version that the walk has reached.

    Args:
        run: The run.
        left_out: The clients that are left out from here on, for each model.

    Raises:
        SettingsError: If the run's codec changes numbers, so that these models would not be those of a run.

    Attributes:
        models: The trained parameters after the latest round, [sets, parameters].
    """

    def __init__(self, run: FederatedRun, left_out: Sequence[Collection[int]]) -> None:
        if not run.replica.codec.exact:
            raise SettingsError(
                f"the truth is computed side by side with exact displacements, and codec {run.settings.codec!r} rounds them: "
                "repeat the run with 'lambdaml rerun RUN --without client:K'"
            )
        self._run = run
        self._stays = stays_in(left_out, run.clients)
        self.models = run.weights().repeat(len(left_out), 1)
        self._together: bool | None = None  # not known yet

    def advance(self, found: Round) -> None:
        """Train through a round."""
        shares, _ = shares_of(found, self._stays, self.models.dtype)
        moved = torch.zeros_like(self.models)
        local, replica = self._run.replica.local, self._run.replica
        local.open()
        local.changed = replica.log_state.changed
        kept = local.buffers.keep()
        for number, turn in enumerate(found.turns):
            moved += shares[:, number, None] * self._displacements(turn, found.step)
            local.buffers.restore(kept)
        self.models += moved

    def _displacements(self, turn: ClientTurn, step: int) -> Tensor:
        """Return how far a client's local steps go from each model."""
        if self._together is None:  # every model is the run's own so far, whose displacement is known
            try:
                self._together = alike(self._vectorised(turn, step), turn.moved, self.models.abs().max())
            except Exception:  # whatever a job's loss raises because a number is many
                self._together = False
        return self._vectorised(turn, step) if self._together else self._one_by_one(turn, step)

    def _vectorised(self, turn: ClientTurn, step: int) -> Tensor:
        local, models = self._run.replica.local, self.models.clone()
        gradients = torch.func.vmap(torch.func.grad(FunctionalLoss(local)), in_dims=(0, None), randomness="same")
        for number in range(turn.due.batches):
            _, data = local.dealt(turn.client, turn.due.first_batch + number)
            rate, decay = self._run.rates(step + number, turn.absent)
            models -= rate * (gradients(models, data) + decay * models)
        return models - self.models

    def _one_by_one(self, turn: ClientTurn, step: int) -> Tensor:
        replica = self._run.replica
        base, rows = replica.local.values(), []
        for model in self.models:
            replica.local.restore(model.numpy())
            replica.algorithm.compute(replica.local, None, turn.due, step)
            rows.append(torch.from_numpy(replica.flat.to_host().copy()))
        replica.local.restore(base)
        return torch.stack(rows)
