"""Runs of thousands of workers, simulated fast: the real schedules, with requests in closed form.

`lambdaml.simulation.engine.VirtualRun` executes the functions' own code, request by request. Here the same decisions are
made by the same code (`SCHEDULES`, `build_commit`, staleness rules, `lambdaml.worker.poll_timer`), and requests are
counted by the same scripts (`lambdaml.worker.requests`), but what lies between them follows
from a few draws: many reads at once are one draw, a group commit is one event, and all functions that read the log
take in an entry in a dozen operations on arrays (`log_readers`). Two halves: `async_flow` for schedules whose commits
one function decides, `sync_flow` for those that all agree on. Memory grows with the updates in flight, not with the run.

Against `VirtualRun` (no transfers that matter, 4, 8 and 16 workers with a function each, three stores, steps of 0.05 and
0.5 s): time, staleness and requests agree within 10 %, mostly 5 %; `tests/lambdaml/simulation/test_flow.py`. Not the same:

* Requests above a store's limit are refused and tried again, but the limit is kept by the second. Where a limit slows a
  run down, time is off by up to 23 %, mostly by less than 12 %, and requests by up to 16 %, in one case of twelve by 33 %.
  Refusals are mostly a third to all of the real ones; they range from 0.06 to 5.6 times. Of many refused
  requests at once 512 are followed, and a function whose requests are refused for `patience_s` does not fail.
* Of more than 32 functions in bsp, 32 look for updates, and the others are drawn from these: times within 5 %.
* A function whose lifetime ends is replaced once no step fits in any more, and what it must read again is estimated:
  of a run in which that happens every few seconds, requests may be off by 15 %. There are no preemptions, no
  takeovers (a cold start longer than `lease_s` has its worker taken over), and no faults.
* Work between two commits takes one draw of the stragglers, however many optimizer steps it has.
"""

from __future__ import annotations

from lambdaml.schedules import in_rounds
from lambdaml.simulation.async_flow import AsyncFlow
from lambdaml.simulation.scenario import FlowResult, Scenario
from lambdaml.simulation.sync_flow import SyncFlow


class Flow(Scenario):
    """A run to be simulated."""

    def run(self, updates: int | None = None) -> FlowResult:
        """Simulate until the schedule ends the run, or until so many updates have a fate; once."""
        rounds = in_rounds(self.parts.schedule, self.settings.workers)
        return (SyncFlow if rounds else AsyncFlow)(self).run(updates)
