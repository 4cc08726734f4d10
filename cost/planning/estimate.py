"""The estimate of one candidate: the cost of a step comes from the virtual world, the number of steps from the pilots.

    seconds = once + steps(target, batch, staleness) * seconds a step + handovers + the way from target to end

`lambdaml.cost.planning.step_cost` finds what is taken once and for a step, `lambdaml.cost.planning.convergence` the
steps. A run is longer than the short ones that are simulated. So functions whose lifetime ends, preemptions and
snapshots are added in closed form.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lambdaml.cost.billing.tariff import Quantities, Tariff
from lambdaml.cost.planning.candidates import Candidate
from lambdaml.cost.planning.convergence import LEAST_STALENESS, Convergence, StepsToTarget
from lambdaml.cost.planning.step_cost import Amounts, StepCost
from lambdaml.cost.profiling.profile import Profile
from lambdaml.log.state import LogState
from lambdaml.schedules import SCHEDULES
from lambdaml.simulation.channel import Channel
from lambdaml.simulation.platform import DETECT_S
from lambdaml.simulation.stub_replica import Costs
from lambdaml.training.asked import MAX_EPOCHS
from lambdaml.training.history_room import default_interval
from lambdaml.worker.remembering import updates_per_memory
from lambdaml.worker.requests import LEAVE, RECALL, REMEMBER, START, SUCCEED, count_requests
from lambdaml.worker.stop_watcher import LEAD, STOP_POLL_S

P90 = 0.9
"""The share of runs that keep within the greater of an estimate's two numbers."""

_MANY = 1_000_000

LAUNCH = {"get": 9, "head": 3, "list": 6, "create": 5, "create_lost": 1, "delete": 1}
"""The requests of the process that starts a run, without those for snapshots and for the log, read at the end."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """The expected course of a candidate.

    Attributes:
        candidate: The candidate that is estimated.
        steps, p90_steps: The optimizer steps within which half of all runs, and nine of ten runs, end.
        seconds, p90_seconds, usd, p90_usd: The seconds and the US dollars that such runs take.
        step_s: The seconds of an optimizer step.
        functions: The functions that share the workers.
        group: The average updates that a step applies.
        staleness: The average staleness of an applied update.
        effective: The constant staleness that harms training as much as this run's.
        requests, bytes_sent, bytes_received, function_seconds, invocations: The quantities of the median run.
        idle_s: The part of the function-seconds in which functions start, or wait for the store and for each other.
        parts_usd: The US dollars by part of the bill.
        transfer_usd: The US dollars by pair of regions, such as `us-east-1 to eu-west-1`.
        obstacle: The reason why nobody should run this candidate, or "" if there is none.
    """

    candidate: Candidate
    steps: int = 0
    p90_steps: int = 0
    seconds: float = math.inf
    p90_seconds: float = math.inf
    usd: float = math.inf
    p90_usd: float = math.inf
    step_s: float = math.inf
    functions: int = 0
    group: float = 0.0
    staleness: float = 0.0
    effective: float = 0.0
    requests: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    function_seconds: float = 0.0
    idle_s: float = 0.0
    invocations: int = 0
    parts_usd: Mapping[str, float] = field(default_factory=dict)
    transfer_usd: Mapping[str, float] = field(default_factory=dict)
    obstacle: str = ""

    def shortened(self, share: float) -> Estimate:
        """Return the estimate for this share of the steps. What a run takes only once stays the same."""
        steps, p90 = (max(1, round(share * count)) for count in (self.steps, self.p90_steps))
        seconds = self.seconds - (self.steps - steps) * self.step_s
        of_time = seconds / self.seconds
        return replace(
            self,
            steps=steps,
            p90_steps=p90,
            seconds=seconds,
            p90_seconds=self.p90_seconds - (self.p90_steps - p90) * self.step_s,
            usd=self.usd * of_time,
            p90_usd=self.p90_usd * of_time,
            requests=round(self.requests * share),
            bytes_sent=round(self.bytes_sent * share),
            bytes_received=round(self.bytes_received * share),
            function_seconds=self.function_seconds * of_time,
            idle_s=self.idle_s * of_time,
            parts_usd={part: usd * of_time for part, usd in self.parts_usd.items()},
            transfer_usd={pair: usd * of_time for pair, usd in self.transfer_usd.items()},
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, which has no infinite numbers, without transfers if there are none."""
        left_out = {"candidate"} if self.transfer_usd else {"candidate", "transfer_usd"}
        values = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in left_out}
        plain = {
            name: None if isinstance(v, float) and not math.isfinite(v) else dict(v) if isinstance(v, Mapping) else v
            for name, v in values.items()
        }
        return {**self.candidate.to_dict(), **plain}


@dataclass(frozen=True, slots=True)
class StopCriterion:
    """The condition that ends a run: a target that the pilots trained to, or a number of epochs.

    Attributes:
        convergence: The steps to the target by the pilots of each algorithm, or None if epochs end the run.
        epochs: The number of passes over the data after which the run ends, or None if a target ends it.
        snapshot_every: The updates of a worker between snapshots, as in `train`. Defaults to an epoch.
        remaining: The share of the steps to the target that still has to be taken.
    """

    convergence: Mapping[str, Convergence] | None
    epochs: float | None = None
    snapshot_every: int | None = None
    remaining: float = 1.0

    def steps(self, candidate: Candidate, step_cost: StepCost, batch: float, samples: int) -> StepsToTarget | None:
        """Return the optimizer steps to the end, or None if it is not known whether the target is reached.

        Args:
            batch: The average samples of a batch.
            samples: The samples of the data set.
        """
        if self.epochs is not None:
            each = self.epochs * samples / (candidate.workers * batch * candidate.batches(samples))
            return StepsToTarget(max(1.0, each / _counted(candidate, step_cost.group)), 0.0)
        assert self.convergence is not None
        if candidate.parts.feedback and step_cost.effective > LEAST_STALENESS:
            return None
        found = self.convergence[candidate.algorithm].steps(
            step_cost.group, step_cost.group * batch, step_cost.effective, candidate.codec
        )
        return None if found is None else StepsToTarget(self.remaining * found.median, found.sigma)


def _counted(candidate: Candidate, group: float) -> float:
    """Return how much an optimizer step counts towards a run's `steps`; see `Schedule.progress`."""
    log_state = LogState(candidate.workers, 1)
    log_state.commit = log_state.version = _MANY
    log_state.next_seq[0] = round(_MANY * group)
    return SCHEDULES.make(candidate.schedule).progress(log_state) / _MANY


def estimate(
    candidate: Candidate,
    step_cost: StepCost,
    profile: Profile,
    criterion: StopCriterion,
    tariff: Tariff,
    functions: int | None = None,
) -> Estimate:
    """Estimate the candidate's time, cost and requests.

    Args:
        step_cost: The result of simulating the candidate.
        tariff: The prices of the candidate's platform and store.
        functions: The number of functions that share the workers. Defaults to one for each worker.
    """
    functions = functions or candidate.workers
    per_epoch = candidate.per_epoch(profile.job.samples)
    batches = candidate.batches(profile.job.samples)
    passes = max(1, per_epoch // batches)
    every_rounds = criterion.snapshot_every or default_interval(passes, candidate.workers, profile.job.parameters)
    every_steps = every_rounds * candidate.workers / step_cost.group
    batch = profile.job.samples / (candidate.workers * per_epoch)
    needed = criterion.steps(candidate, step_cost, batch, profile.job.samples)
    known = Estimate(
        candidate,
        step_s=step_cost.step.seconds,
        functions=functions,
        group=step_cost.group,
        staleness=step_cost.staleness,
        effective=step_cost.effective,
    )
    if batches > 1 and batches > round(per_epoch * (criterion.epochs or MAX_EPOCHS)):
        return replace(known, obstacle=f"{batches} local steps for an update are more than a worker takes in the run")
    if needed is None:
        assert criterion.convergence is not None
        return replace(known, obstacle=_unknown(candidate, step_cost, criterion.convergence[candidate.algorithm]))
    watched = criterion.epochs is None
    launcher = Launcher(profile, candidate.channel, every_steps, watched)
    look_steps = max(1, round(every_steps)) if watched else 1
    median_steps, p90_steps = needed.quantile(0.5, look_steps), needed.quantile(P90, look_steps)
    costs = profile.costs(candidate.batch_size, candidate.codec, algorithm=candidate.algorithm)
    memory_bytes = costs.memory_bytes if candidate.parts.remembers else 0
    if candidate.parts.remembers:
        each_s = (batches * costs.step_s + costs.encode_s) / candidate.platform.speed()
        written = step_cost.group / updates_per_memory(each_s)
        remembering = Amounts(0.0, 0.0, 0.0, count_requests(REMEMBER, worker=written), written * memory_bytes, 0.0)
        step_cost = replace(step_cost, step=step_cost.step.plus(remembering))
    given = (candidate, step_cost, launcher, functions, memory_bytes)
    median, p90 = (_course(steps, *given) for steps in (median_steps, p90_steps))
    bill = tariff.bill(median)
    return replace(
        known,
        steps=median_steps,
        p90_steps=p90_steps,
        seconds=median.wall_s,
        p90_seconds=p90.wall_s,
        usd=bill.usd,
        p90_usd=tariff.bill(p90).usd,
        requests=sum(median.requests.values()),
        bytes_sent=median.bytes_sent,
        bytes_received=median.bytes_received,
        function_seconds=math.fsum(median.lifetimes_s),
        idle_s=_idle_s(median.lifetimes_s, candidate, median_steps, step_cost.group, costs, batches, functions),
        invocations=len(median.lifetimes_s),
        parts_usd=bill.parts(),
        transfer_usd={line.what: line.usd for line in bill.lines if line.part == "transfer"},
    )


def _idle_s(
    lifetimes_s: Sequence[float],
    candidate: Candidate,
    steps: int,
    group: float,
    costs: Costs,
    batches: int,
    functions: int,
) -> float:
    """Return the seconds in which functions do not compute, in a run of so many steps that apply `group` updates each."""
    updates_s = group * (batches * costs.step_s + costs.encode_s + functions * costs.apply_update_s)
    working_s = steps * (updates_s + functions * costs.apply_s) / candidate.platform.speed()
    return max(0.0, math.fsum(lifetimes_s) - working_s)


def _unknown(candidate: Candidate, step_cost: StepCost, convergence: Convergence) -> str:
    if convergence.factor(candidate.codec, step_cost.group) is None:
        return f"pilots with {candidate.codec} did not reach the target"
    if candidate.parts.feedback:
        return f"stale updates: pilots with {candidate.codec} were synchronous"
    late = f"staleness as hard to stand as {step_cost.effective:.1f} steps"
    if convergence.by_coherence:
        return f"{late}: more than the coherence of gradients allows"
    if math.isfinite(convergence.tolerance):
        return f"{late}: at {convergence.tolerance:g}, pilots did not reach the target"
    return f"{late}: more than pilots tried"


class Launcher:
    """The additions of the process that starts a run: the start, the evaluation of snapshots, the summary at the end.

    Args:
        every_steps: The optimizer steps between snapshots.
        watched: Whether a target may end the run.
    """

    def __init__(self, profile: Profile, channel: Channel, every_steps: float, watched: bool) -> None:
        self.every_steps = every_steps
        read_s, write_s = (channel.latency_s(kind, 0.5) for kind in ("get", "create"))
        self._watched = watched
        self._bytes = profile.job.snapshot_bytes
        self._found_s = 2 * write_s + 2 * read_s + 2 * channel.transfer_s(self._bytes)
        self._heeded_s = write_s + read_s

    def overshoot_steps(self, step_s: float) -> float:
        """Return the steps from the snapshot that meets the target to the end; see `lambdaml.worker.stop_watcher`.

        The snapshot is written, found and read, and the request to stop is written. The committer looks for it once a
        second and with the next snapshot, reads it, and writes it into the log, after the step that is under way. A run
        is at most `LEAD` snapshots ahead of its evaluation, plus one more that it is about to take.
        """
        if not self._watched:
            return 0.0
        interval_s = self.every_steps * step_s
        next_s = interval_s - self._found_s if self._found_s < interval_s else interval_s / 2
        look_s = next_s - next_s**2 / (2 * STOP_POLL_S) if next_s < STOP_POLL_S else STOP_POLL_S / 2
        steps = (self._found_s + look_s + self._heeded_s) / step_s
        return 1 + min(steps, (LEAD + 1) * self.every_steps)

    def amounts(self, steps: float, commits: float, functions: float) -> Amounts:
        """Return the launcher's amounts in a run of this many steps, log entries and functions, including snapshots."""
        snapshots = math.floor(steps / self.every_steps)
        requests = {kind: float(count) for kind, count in LAUNCH.items()}
        requests["get"] += snapshots + commits
        requests["list"] += snapshots
        requests["create"] += 2 * snapshots + functions
        if self._watched:
            requests["get_miss"] = float(snapshots)
            requests["head"] += snapshots
        moved = float((snapshots + 1) * self._bytes)
        return Amounts(0.0, 0.0, 0.0, requests, moved, moved)


def _course(
    steps: int, candidate: Candidate, step_cost: StepCost, launcher: Launcher, functions: int, memory_bytes: int
) -> Quantities:
    """Return the quantities of a whole run of this many steps."""
    platform = candidate.platform
    overshoot = launcher.overshoot_steps(step_cost.step.seconds)
    whole = step_cost.of(steps + overshoot)
    whole = whole.plus(launcher.amounts(steps + overshoot, whole.commits, functions))
    read_s = candidate.channel.latency_s("get", 0.5)
    handover_s = DETECT_S + platform.warm_start_s[0] + 6 * read_s
    recover_s = DETECT_S + platform.cold_start_s[0] + 6 * read_s
    handovers = math.floor(whole.seconds / platform.lifetime_s)
    preemptions = functions * whole.seconds / platform.preemption_mean_s
    share = 1.0 if step_cost.staleness == 0.0 else 1.0 / functions
    lost_s = handovers * handover_s + preemptions * recover_s * share
    restarts = functions * handovers + preemptions
    seconds = whole.seconds + lost_s
    function_seconds = whole.function_seconds + functions * lost_s
    moved_workers = restarts * candidate.workers / functions
    scripts = (*LEAVE, *START, *SUCCEED, *((*REMEMBER, *RECALL) if candidate.parts.remembers else ()))
    again = count_requests(scripts, function=restarts, worker=moved_workers)
    requests = {kind: count + again[kind] for kind, count in whole.requests.items()}
    lives = functions + round(restarts)
    return Quantities(
        lifetimes_s=[function_seconds / lives] * lives,
        requests={kind: round(count) for kind, count in requests.items() if count > 0.5},
        bytes_sent=round(whole.sent_bytes + moved_workers * memory_bytes),
        bytes_received=round(whole.received_bytes + moved_workers * memory_bytes),
        stored_byte_s=whole.sent_bytes * seconds / 2,
        wall_s=seconds,
        moved={pair: max(0, round(size)) for pair, size in whole.moved.items()},  # a function may begin after the end
    )
