"""Pipeline: rounds of all workers as in `bsp`, but the exchange of a round goes on while the next ones are computed.

A worker computes its update of round r from the model after max(0, r - D) rounds. So while an update is written, read by
the others and applied, the worker is busy with the next one: a round takes as long as the computation or the exchange,
whichever is longer, rather than both. The price is a gradient that is D rounds old, always and for all workers, so a run
is as reproducible as in `bsp`.

Source: Li et al., "Pipe-SGD: a decentralized pipelined SGD framework for distributed deep net training" (NeurIPS 2018,
arXiv 1811.03619), which does so with a delay of one round. Convergence with delayed gradients: Langford, Smola and
Zinkevich, "Slow learners are fast" (NIPS 2009).
"""

from __future__ import annotations

from lambdaml.log.state import LogState
from lambdaml.schedules import Schedule
from lambdaml.schedules.bsp import Bsp


class Pipeline(Bsp):
    """Takes whole rounds, whose updates are computed from the model of `delay` rounds before.

    Attributes:
        delay: The number of rounds between the model that an update is computed from and the one that it is applied to.
    """

    def __init__(self, delay: int) -> None:
        self.delay = delay

    def may_start(self, log_state: LogState, worker: int, seq: int, last_base: int) -> bool:
        return seq - log_state.next_seq[worker] <= self.delay


def pipeline(delay: int) -> Schedule:
    """Return the schedule `pipeline:D`. With a delay of 0 that is `bsp`."""
    if delay < 0:
        raise ValueError(f"a delay of {delay} rounds makes no sense: it must be 0 or more")
    return Pipeline(delay) if delay else Bsp()
