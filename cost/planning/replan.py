"""Planning again during a run whose course has left its plan.

At each snapshot the time of a step is compared with the plan's. If it is off by more than the factor `LEAVES`, the
store and the run's gradients are measured as they are now, and the rest of the run is planned with that. If another way
ends markedly sooner, the run is asked to end where it is, and a successor continues from there:

    watch = Replanner(url, plan, IProf.open(plan.profile))
    try:
        result = lambdaml.train(job, url, on_event=watch.take, **plan.options())
    finally:
        watch.close()
    if result.stop == "replanned":
        lambdaml.train(job, elsewhere, init_from=f"{url}@{result.version}", **watch.successor.options())
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median

from lambdaml.cost.planning.estimate import Estimate
from lambdaml.cost.planning.plan import Plan, make_plan
from lambdaml.cost.profiling.iprof import Device, IProf
from lambdaml.cost.profiling.profile import Profile
from lambdaml.cost.profiling.stores import measure_store
from lambdaml.events import Event
from lambdaml.log import keys
from lambdaml.log.reader import RunReader
from lambdaml.log.reads import read_many
from lambdaml.log.records import Update
from lambdaml.log.stops import request_stop

LEAVES = 1.5
"""The factor between the planned and the observed time of a step beyond which reality has left the plan."""

WORTH = 0.75
"""The largest share of the remaining time that a successor may take, including its start."""

STOP_S = 2.0
"""The seconds from the request to end a run until its successor can begin."""

LEAST_S, LEAST_ROUNDS = 2.0, 5
"""The least seconds and rounds over which the time of a step is taken. A run's first two rounds do not count."""

LEAST_REMAINING = 0.001
"""The share of the steps that a successor gets if the run took all planned steps before it ended."""

MOST_PLANS = 3
"""The most plans that are made for one run."""

STORE_S = 1.0
"""The approximate seconds for measuring the store."""

_UPDATES = 16
"""The number of newest updates whose gradients tell how fast functions are."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """A commit of the run, and the time at which it was reported."""

    at: float = 0.0
    commit: int = 0
    version: int = 0
    progress: int = 0
    fraction: float = 0.0


class Replanner:
    """A watcher of one run, which plans the rest of it again if reality leaves its plan.

    Args:
        url: The URL of the run.
        plan: The plan that the run follows. It has a choice, but neither deadline nor budget, which would be for all
            steps.
        iprof: The I-Prof that was planned with. It learns from this run, and is not saved.
        say: A function that takes a line of news, from another thread.

    Attributes:
        successor: The plan of the run that continues this one, once this one was asked to end.
    """

    def __init__(self, url: str, plan: Plan, iprof: IProf, say: Callable[[str], None] = lambda line: None) -> None:
        assert plan.choice is not None
        self.successor: Plan | None = None
        self._url, self._plan, self._iprof, self._say = url, plan, iprof, say
        self._expected: Estimate = plan.choice
        self._step_s = plan.choice.step_s
        self._since: _Seen | None = None
        self._last = _Seen()
        self._thread: threading.Thread | None = None
        self._plans = 0
        self._over = False

    def take(self, event: Event) -> None:
        """Learn from an event of the run."""
        if event.event == "commit":
            self._last = _Seen(time.monotonic(), event.commit, event.version, event.progress, event.fraction)
            if self._since is None and event.progress >= 2 * self._expected.candidate.workers:
                self._since = self._last
        elif event.event == "snapshot" and self._left_the_plan():
            self._plans += 1
            self._thread = threading.Thread(target=self._plan_again, args=(self._seen_step_s, self._last), daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop planning, since the run has ended, and note how much remains for a successor."""
        self._over = True
        if self._thread is not None:
            self._thread.join()
        if self.successor is not None:
            planned, remaining = self.successor, max(LEAST_REMAINING, self._remaining())
            share = remaining / planned.objective.remaining
            candidates = tuple(one if one.obstacle else one.shortened(share) for one in planned.candidates)
            objective = replace(planned.objective, remaining=remaining)
            self.successor = replace(planned, objective=objective, candidates=candidates)

    def _remaining(self) -> float:
        """Return the share of all steps that this run has not taken yet."""
        by_epochs = self._plan.objective.epochs is not None
        gone = self._last.fraction if by_epochs else self._last.version / self._expected.steps
        return self._plan.objective.remaining * max(0.0, 1.0 - gone)

    @property
    def _seen_step_s(self) -> float:
        assert self._since is not None
        return (self._last.at - self._since.at) / max(1, self._last.version - self._since.version)

    def _left_the_plan(self) -> bool:
        busy = self._thread is not None and self._thread.is_alive()
        if self._since is None or busy or self.successor is not None or self._plans == MOST_PLANS:
            return False
        if self._last.fraction >= 1:
            return False
        updates = self._last.progress - self._since.progress
        if self._last.at - self._since.at < LEAST_S or updates < LEAST_ROUNDS * self._expected.candidate.workers:
            return False
        return _apart(self._seen_step_s, self._step_s)

    def _plan_again(self, step_s: float, last: _Seen) -> None:
        self._say(f"a step takes {step_s:.3g} s, and not {self._step_s:.3g} s as planned: planning again")
        try:
            news = self._decide(step_s, last.commit)
        except _TooLateError:
            return
        except Exception as error:  # the run continues, whatever happens to its plans
            news = f"planning again failed: {error}"
        self._say(news)
        self._since = None

    def _go_on(self, share: float = 0.0) -> None:
        if self._over:
            raise _TooLateError

    def _decide(self, step_s: float, commit: int) -> str:
        """Ask the run to end if that is worth it, and return a sentence about the decision."""
        remaining = self._remaining()
        if not remaining:
            return "the plan goes on: by its pilots it should have ended by now"
        objective, profile = replace(self._plan.objective, remaining=remaining), self._measured(step_s, commit)
        found = make_plan(profile, objective, iprof=self._iprof, processes=1, progress=self._go_on)
        rest = self._remaining() / remaining
        expected = str(self._expected.candidate)  # a store that was measured again has the same name
        now = next(one for one in found.candidates if str(one.candidate) == expected)
        self._step_s = step_s
        if _apart(now.step_s, step_s):
            return "the plan goes on: what was measured does not explain it"
        stay_s, best = math.inf if now.obstacle else rest * now.steps * now.step_s, found.choice
        if best is None or rest * best.seconds + STOP_S > WORTH * stay_s:
            return f"the plan goes on: {stay_s:.3g} s are left, and nothing else would end markedly sooner"
        staying = "nobody knows how long" if now.obstacle else f"{stay_s:.3g} s"
        changed = f"a step of {now.candidate.schedule} with {now.candidate.workers} workers took {step_s:.3g} s"
        reason = f"{changed} and not {self._expected.step_s:.3g} s, which left {staying} to go; {found.reason}"
        self._go_on()
        request_stop(RunReader(self._url).store, "replanned")
        self.successor = replace(found, reason=reason)
        return f"planned again: {best.candidate} ends in {rest * best.seconds:.3g} s instead of {staying}"

    def _measured(self, step_s: float, commit: int) -> Profile:
        """Return the profile with the store as it is now. I-Prof learns what gradients take now."""
        profile, functions, updates = self._plan.profile, self._expected.functions, self._newest(commit)
        if updates:
            rows = [{"samples": update.samples, "compute_s": update.compute_s} for update in updates]
            per_s = self._expected.group / step_s
            busy = min(1.0, median(update.compute_s for update in updates) * per_s / functions)
            batches = self._expected.candidate.batches(profile.job.samples)
            self._iprof.learn_run(Device.here(functions, busy), profile, rows, batches=batches)
        if profile.store is None:
            return profile
        facts, *_ = measure_store(self._url, 4 * profile.job.parameters, STORE_S, self._go_on)
        return replace(profile, store=facts)

    def _newest(self, commit: int) -> list[Update]:
        """Return the applied updates of the log's last entries."""
        run = RunReader(self._url)
        applied = [entry for logged in run.log(max(0, commit - _UPDATES)) for entry in logged.applied][-_UPDATES:]
        found = read_many(run.store, [keys.update(entry.worker, entry.seq) for entry in applied], Update.read)
        return [update for update in found if update is not None]


class _TooLateError(Exception):
    """The run has ended."""


def _apart(one: float, other: float) -> bool:
    return max(one / other, other / one) > LEAVES
