"""How a round's local steps carry a small difference of the model along: products of Id - eta H over the steps of a client.

`FisherProducts` takes the empirical Fisher for H, the mean of g g' over some samples whose gradients the run has recorded; it reads no data.
`ExactProducts` takes the Hessian of the very batch of the step at the very local model, by differentiating twice, and computes the local
steps of the run again for that.

In both, a difference is a row of a matrix, and H is taken block by block: a single block is all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from lambdaml.algorithms.local import take_steps
from lambdaml.errors import JobError
from lambdaml.influence.federated import ClientTurn, FederatedRun
from lambdaml.training.calls import call

_ROWS_AT_ONCE = 64
"""So many Hessian-vector products are computed at once."""


class Products(Protocol):
    """Carries differences along through the local steps of a client."""

    def carry(self, turn: ClientTurn, step: int, rows: Tensor, blocks: Sequence[slice]) -> Tensor:
        """Return the differences after the steps of a turn.

        Args:
            turn: The turn.
            step: The number of its first step in the job's learning-rate schedule.
            rows: The differences before, [differences, parameters].
            blocks: The blocks of the Hessian that are taken; they cover all parameters.
        """
        ...


class FisherProducts:
    """Takes the empirical Fisher of recorded gradients for the Hessian.

    Args:
        run: The run.
        gradients: Returns the gradients of an update's worker and number, [steps, samples, parameters].
    """

    def __init__(self, run: FederatedRun, gradients: Callable[[int, int], NDArray[Any]]) -> None:
        self._run, self._gradients = run, gradients

    def carry(self, turn: ClientTurn, step: int, rows: Tensor, blocks: Sequence[slice]) -> Tensor:
        for number, each in enumerate(self._gradients(*turn.update)):
            rate, decay = self._run.rates(step + number, turn.absent)
            gradients = torch.tensor(each, dtype=rows.dtype)
            change = rows * decay
            for block in blocks:
                some = gradients[:, block]
                change[:, block] += (rows[:, block] @ some.T) @ some / len(some)
            rows = rows - rate * change
        return rows


class ExactProducts:
    """Takes the Hessian of each step's batch, and computes the steps again. The replica of the run is at the round's base."""

    def __init__(self, run: FederatedRun) -> None:
        self._run = run

    def carry(self, turn: ClientTurn, step: int, rows: Tensor, blocks: Sequence[slice]) -> Tensor:
        replica = self._run.replica
        local, due = replica.local, turn.due
        local.open()
        local.changed = replica.log_state.changed
        start, kept, done = local.values(), local.buffers.keep(), 0

        def look() -> None:
            """Carry the differences through the step that is about to be taken."""
            nonlocal rows, done
            products, absent = self._products(due.worker, due.first_batch + done, rows, blocks)
            rate, decay = self._run.rates(step + done, absent)
            rows, done = rows - rate * (rows * decay + products), done + 1

        local.load_optimizer({}, None)
        try:
            take_steps(local, due, step, look)
        except RuntimeError as error:
            why = " ".join(str(error).split())[:200]
            owner = type(local.job).__name__
            raise JobError(
                f"the loss of {owner} cannot be differentiated twice, as exact products need: {why}"
            ) from error
        local.restore(start)
        local.buffers.restore(kept)
        return rows

    def _products(
        self, client: int, batch: int, rows: Tensor, blocks: Sequence[slice]
    ) -> tuple[Tensor, frozenset[int]]:
        """Return the products of the Hessian of a batch, at the present parameters, with the differences; and the numbers of the
        parameters that its gradient does not reach."""
        local = self._run.replica.local
        parameters, spans, shapes = local.flat.parameters, local.layout.spans, local.layout.shapes
        _, data = local.dealt(client, batch)
        with sdpa_kernel(SDPBackend.MATH):  # the others cannot be differentiated twice
            loss = local.loss_parts.split(call(local.job.loss, local.model, data))
            gradient = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
        found = torch.zeros_like(rows)
        for block in blocks:
            inside = [n for n, span in enumerate(spans) if block.start <= span.start and span.stop <= block.stop]
            reached = [n for n in inside if gradient[n] is not None and gradient[n].requires_grad]
            for first in range(0, len(rows), _ROWS_AT_ONCE) if reached else ():
                some = rows[first : first + _ROWS_AT_ONCE]
                vectors = [some[:, spans[n]].reshape(-1, *shapes[n]).to(gradient[n].dtype) for n in reached]
                products = _products([gradient[n] for n in reached], [parameters[n] for n in inside], vectors)
                for n, product in zip(inside, products, strict=True):
                    if product is not None:
                        found[first : first + len(some), spans[n]] = product.reshape(len(some), -1)
        return found, frozenset(n for n, each in enumerate(gradient) if each is None)


def _products(gradient: Sequence[Tensor], parameters: Sequence[Tensor], vectors: Sequence[Tensor]) -> Sequence[Any]:
    """Return the products of the Hessian with several vectors, for each parameter; None for one that they do not reach.

    Args:
        gradient: The gradient, in parts.
        parameters: The parameters.
        vectors: The vectors in parts of the same shapes, all of them side by side.
    """
    options: dict[str, Any] = {"retain_graph": True, "allow_unused": True}
    try:
        return torch.autograd.grad(gradient, parameters, vectors, is_grads_batched=True, **options)
    except RuntimeError:  # some operations cannot be batched
        rows = [torch.autograd.grad(gradient, parameters, vector, **options) for vector in zip(*vectors, strict=True)]
        return [None if parts[0] is None else torch.stack(parts) for parts in zip(*rows, strict=True)]
