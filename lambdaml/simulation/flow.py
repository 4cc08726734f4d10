"""Runs of thousands of workers, simulated fast: the real schedules, with requests in closed form.

`lambdaml.simulation.engine.VirtualRun` executes the functions' own code, request by request. Here the same code makes
the same decisions (`SCHEDULES`, `build_commit`, staleness rules, `lambdaml.worker.poll_timer`), and the same scripts
count the requests (`lambdaml.worker.requests`), but a few draws replace all that happens between them: many reads at
once are one draw, a group commit is one event, and all functions that read the log process an entry in a dozen
operations on arrays (`log_readers`). The code has two halves: `async_flow` for schedules whose commits one function
decides, and `sync_flow` for those whose commits every function makes by itself. Memory grows with the updates in
flight, not with the run.

Time, staleness and requests agree with `VirtualRun` within 10 %, and mostly within 5 %. That was compared without
transfers that matter, for 4, 8 and 16 workers with a function each, three stores, and steps of 0.05 and 0.5 s, in
`tests/lambdaml/simulation/test_flow.py`. These things differ:

* Requests above a store's limit are refused and tried again, but the limit holds for each whole second. If a limit
  slows a run down, time is off by up to 23 %, mostly by less than 12 %, and requests are off by up to 16 %, in one case
  of twelve by 33 %. The refusals are mostly a third to all of the real ones; they range from 0.06 to 5.6 times. If many
  requests are refused at once, 512 of them are followed. A function whose requests are refused for `patience_s` does
  not fail.
* In bsp with more than 32 functions, 32 look for updates, and the others' times are drawn from theirs. Times agree
  within 5 %.
* A function whose lifetime ends is replaced once no step fits in any more, and the reads of its replacement are
  estimated: if that happens every few seconds, the run's requests may be off by 15 %. Preemptions, takeovers and faults
  are not simulated, so a cold start longer than `lease_s` does not have its worker taken over.
* Memories that are written while a worker works are counted, but take no time; functions that leave and the ones after
  them wait for theirs. A worker whose number of steps is decided by clocks (`local:auto`) is refused.
* Work between two commits takes one draw of the stragglers, however many optimizer steps it has.
"""

from __future__ import annotations

from lambdaml.schedules import in_rounds
from lambdaml.simulation.async_flow import AsyncFlow
from lambdaml.simulation.scenario import FlowResult, Scenario
from lambdaml.simulation.sync_flow import SyncFlow


class Flow(Scenario):
    """A run that is simulated once, in closed form."""

    def run(self, updates: int | None = None) -> FlowResult:
        """Simulate until the schedule ends the run, or until `updates` updates have a fate. Call it once."""
        rounds = in_rounds(self.parts.schedule, self.settings.workers)
        return (SyncFlow if rounds else AsyncFlow)(self).run(updates)
