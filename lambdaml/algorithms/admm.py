"""ADMM: workers take local steps towards a consensus, and remember how far and how long they were from it.

This is consensus ADMM in scaled form (Boyd et al., "Distributed optimization and statistical learning via the
alternating direction method of multipliers", Foundations and Trends in Machine Learning 3, 2011, section 7.1). Worker k
has the mean loss f_k over its share of the data, a model x_k of its own and a dual variable u_k; z is the run's model:

    u_k += x_k - z
    x_k := argmin f_k(x) + rho / 2 |x - z + u_k|^2
    z   := mean of x_k + u_k, weighed by the sizes of the shares

The minimum is approached by a stated number of local steps with the job's optimizer. They begin at the worker's latest
x_k, and not at z: from round to round the minimum moves by less than it is away from z, where the steps that led to it
would have to be taken again. For the same reason the optimizer goes on with its state.

A worker sends x_k + u_k - z, whose mean takes z to the new one. Only the next base tells it z, so u_k is brought up to date
when the next update is computed. Then the residuals of the round before are known, too: primal |x_k - z|, and dual rho |z -
previous z|. At a minimum of the whole loss both are 0.
"""

from __future__ import annotations

import math

import numpy as np

from lambdaml.algorithms import Assignment, LocalModel, Message, together
from lambdaml.algorithms.local import OPTIMIZER, LocalSteps, take_steps
from lambdaml.log.memory import Memory
from lambdaml.training.numerics import norm

_X, _U, _Z = "x", "u", "z"
"""The names of the memory's arrays: the worker's own model, its dual variable, and the base of its latest update."""


class Consensus(LocalSteps):
    """Takes local steps on loss + rho / 2 |x - z + u|^2, from where the worker's own model x is.

    Args:
        rho: The strength of the consensus. With a small one workers differ for long, and with a large one they move slowly.
        steps: The number of local steps. Give either this or `epochs`.
        epochs: The number of passes over the worker's share; 1 if neither is given.
    """

    duals = True

    def __init__(self, rho: float, steps: int = 0, epochs: float = 0.0) -> None:
        if not 0 < rho < math.inf:
            raise ValueError(f"rho must be more than 0, not {rho}")
        if steps < 0 or (steps and epochs):
            raise ValueError(f"give a number of steps or of epochs, as in 'admm:{rho:g},epochs=2'")
        super().__init__(str(steps) if steps else "", 0.0 if steps else epochs or 1.0, inner="keep")
        self._rho = rho

    def compute(self, model: LocalModel, memory: Memory | None, assignment: Assignment, inner_step: int) -> Message:
        held = memory or Memory(assignment.worker)
        z = model.values()
        x, u = z, np.zeros_like(z)
        residuals: tuple[float, ...] = ()
        if _X in held.arrays:
            x = held.arrays[_X].copy()
            u = held.arrays[_U] + (x - z)
            residuals = (norm(x - z), self._rho * norm(z - held.arrays[_Z]))
        model.restore(x)
        model.load_optimizer(held.arrays, held.values.get(OPTIMIZER))
        centre = z - u
        done = take_steps(model, assignment, inner_step, lambda: model.pull(centre, self._rho))
        found = together(done, sum(batch.loss for batch in done) / len(done))
        x = model.values()
        model.restore(x + u)
        model.displace(z)
        arrays, values = model.dump_optimizer()
        return Message(
            found.samples,
            found.loss,
            np.empty(0, np.int32),  # the pull reaches all parameters
            found.labels,
            residuals=residuals,
            arrays={_X: x, _U: u, _Z: z} | arrays,
            values={OPTIMIZER: values},
        )


def variants(steps: int) -> list[str]:
    """Return the variants worth trying with this many steps."""
    return [f"admm:1,steps={steps}"]
