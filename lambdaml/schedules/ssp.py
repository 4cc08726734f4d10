"""Stale synchronous parallel: like `asp`, but a worker may lead the slowest one by at most `s` updates.

Source: Ho et al., "More effective distributed ML via a stale synchronous parallel parameter server" (NIPS 2013). A
worker that has made c updates may make the next only when every other has made at least c - s. The version that it then
reads includes every worker's updates before clock c - s, since the log is totally ordered.
"""

from __future__ import annotations

from lambdaml.log.state import LogState
from lambdaml.schedules import Schedule
from lambdaml.schedules.asp import Asp
from lambdaml.schedules.bsp import Bsp


class Ssp(Asp):
    """Takes updates as they come, and lets no worker lead the slowest one by more than `s` updates."""

    def __init__(self, s: int) -> None:
        self.s = s

    def may_start(self, log_state: LogState, worker: int, seq: int, last_base: int) -> bool:
        return log_state.next_seq[worker] == seq and seq - min(log_state.next_seq) <= self.s


def ssp(s: int) -> Schedule:
    """Return the schedule `ssp:S`. With s = 0 no worker may lead and every commit is a whole round: that is `bsp`."""
    if s < 0:
        raise ValueError(f"a lead of {s} makes no sense: s must be 0 or more")
    return Bsp() if s == 0 else Ssp(s)


def variants(workers: int) -> list[str]:
    """Return the variants worth trying."""
    return ["ssp:1", "ssp:3"] if workers > 1 else []
