"""Runs of thousands of workers, simulated fast: the real schedules, with requests in closed form.

`lambdaml.simulation.engine.Virtual` executes the functions' own code, request by request. Here the same decisions are
made by the same code (`SCHEDULES`, `build_commit`, staleness rules, paces and pauses), but what lies between them follows
from a few draws: many reads at once are one draw, a group commit is one event, and all functions that read the log
take in an entry in a dozen operations on arrays (`reading`). Two halves: `stream` for schedules whose commits one
function decides, `rounds` for those that all agree on. Memory grows with the updates in flight, not with the run.

Against `Virtual` (no transfers that matter, 4, 8 and 16 workers with a function each, three stores, steps of 0.05 and
0.5 s): time, staleness and requests agree within 10 %, mostly 5 %; `tests/lambdaml/simulation/test_flow.py`. Not the same:

* A limit on reads delays them, as a queue would. Really requests are refused and tried again, and a function whose
  request is refused eight times fails; refusals are not counted, and writes have no limit.
* Of more than 32 functions in bsp, 32 look for updates, and the others are drawn from these: times within 5 %.
* A function whose lifetime ends is replaced once no step fits in any more, and what it must read again is estimated:
  of a run in which that happens every few seconds, requests may be off by 15 %. There are no preemptions, no
  takeovers (a cold start longer than `lease_s` has its worker taken over), and no faults.
* Work between two commits takes one draw of the stragglers, however many optimizer steps it has.
"""

from __future__ import annotations

from dataclasses import dataclass

from lambdaml.log.summary import Staleness
from lambdaml.schedules import in_rounds
from lambdaml.settings import Settings
from lambdaml.simulation.channel import Channel
from lambdaml.simulation.platform import Platform
from lambdaml.simulation.rounds import Rounds
from lambdaml.simulation.scene import OnCommit, Scene
from lambdaml.simulation.stragglers import Even, Stragglers
from lambdaml.simulation.stream import Stream
from lambdaml.simulation.stub_replica import Costs


@dataclass(frozen=True, slots=True)
class FlowResult:
    """What a run came to.

    Attributes:
        seconds: from asking for functions until the last one ended.
        updates: with a fate.
        requests: by kind, as a meter names them (`lambdaml.storage.meter`).
        function_seconds: over all functions.
        busy_s: of compute, over all functions.
        cycle_s: mean seconds of a worker's cycle by phase: `queue` (for its core), `compute`, `encode`, `upload`,
            `commit` (until the log entry can be read) and `read` (until it may start again); in bsp there is no
            `commit`, since nobody reads the log.
        flight_s: mean seconds from an update's start to its fate.
        stop: why it ended; `updates` where so many were asked for.
    """

    seconds: float
    updates: int
    commits: int
    version: int
    fates: dict[str, int]
    staleness: Staleness
    requests: dict[str, int]
    bytes_sent: int
    bytes_received: int
    function_seconds: float
    busy_s: float
    cycle_s: dict[str, float]
    flight_s: float
    stop: str


class Flow:
    """A run to be simulated; arguments as of `Virtual`.

    Args:
        on_commit: is told of every commit, and when it can be read.
    """

    def __init__(
        self,
        settings: Settings,
        functions: int,
        costs: Costs,
        channel: Channel,
        platform: Platform,
        stragglers: Stragglers | None = None,
        seed: int = 0,
        on_commit: OnCommit | None = None,
    ) -> None:
        self._given = (settings, functions, costs, channel, platform, stragglers or Even(), seed)
        self._on_commit = on_commit

    def run(self, updates: int | None = None) -> FlowResult:
        """Simulate until the schedule ends the run, or until so many updates have a fate."""
        scene = Scene(*self._given)
        rounds = in_rounds(scene.parts.schedule, scene.settings.workers)
        seconds, stop = (Rounds if rounds else Stream)(scene, self._on_commit).run(updates)
        tally = scene.tally
        made, cycles = sum(tally.fates.values()), max(1, tally.cycles)
        return FlowResult(
            seconds=seconds,
            updates=made,
            commits=tally.commits,
            version=tally.version,
            fates=dict(tally.fates),
            staleness=Staleness.of_counts(tally.staleness),
            requests={kind: count for kind, count in tally.requests.items() if count},
            bytes_sent=round(tally.sent_bytes),
            bytes_received=round(tally.received_bytes),
            function_seconds=scene.function_seconds,
            busy_s=tally.busy_s,
            cycle_s={phase: seconds / cycles for phase, seconds in tally.phases_s.items()},
            flight_s=tally.flight_s / max(1, made),
            stop=stop,
        )
