"""Fault schedules: everything that can go wrong, drawn from one seed, and what must hold nevertheless.

`FaultScenario.draw(seed)` is a small run and its faults: functions that crash at any await, stand still for a minute,
start twice, are told that living functions are dead, or have wrong clocks; requests that are refused, lost or slow, or
take effect late or twice; reads that are damaged, and updates that are for good; storms of 503; a store that is down
for a minute; steps that take longer than others. After `calm_s` no more faults happen, so the run must end. `play` runs
it in the virtual world, and `lambdaml.simulation.judge` looks for broken promises in what remains in the bucket.

    lambdaml simulate --faults 17              # plays the history of seed 17, with its events
    python -m pytest tests/lambdaml/simulation   # thousands of them

To try your own schedule, put its line into `SCHEDULES`, and call `try_seeds(range(1000), "mine:3")`.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace

from lambdaml.errors import LambdaMLError, SettingsError
from lambdaml.events import Event
from lambdaml.log import keys
from lambdaml.options import RunOptions
from lambdaml.parts import Parts
from lambdaml.schedules import SCHEDULES, cohort_of, rounds_at_once
from lambdaml.schedules.ssp import Ssp
from lambdaml.settings import JobSettings, Settings
from lambdaml.simulation.channel import Channel
from lambdaml.simulation.engine import FaultPlan, VirtualRun
from lambdaml.simulation.evaluations import VirtualEvaluations
from lambdaml.simulation.judge import judge
from lambdaml.simulation.platform import Platform
from lambdaml.simulation.stragglers import Even, Lognormal
from lambdaml.simulation.stub_replica import Costs
from lambdaml.storage.backend import Op

_SCHEDULES = ("bsp", "asp", "ssp:0", "ssp:1", "ssp:3", "quorum:2", "quorum:1", "quorum:2,late=weight")
_PIPELINES = ("pipeline:1", "pipeline:2")
_GROUPS = ("groups:2", "groups:2,shuffle=random", "groups:4", "groups:1", "groups:2,shuffle=halves")
SCHEDULES_TRIED = (*_SCHEDULES, *_PIPELINES, "cohort:2", "groups:2")
LIMIT_S = 600.0
"""The seconds after which a run that has not ended never will."""

PATTERNS_TRIED = ("gather", "tree:2", "tree:3", "scatter", "scatter:3", "fold")

GAIA = "local:1,ahead=yes,outer=sum"
"""Gaia is this algorithm, with error feedback."""

_KINDS = ("slowdown", "timeout", "lost", "slow", "late", "twice")


@dataclass(slots=True)
class FaultScenario:
    """A small run and its faults.

    Attributes:
        seed: The seed from which the scenario was drawn. It also seeds the run's faults.
        schedule: The schedule, with its arguments.
        workers: The number of workers; in a run of cohorts, of the slots of a round.
        clients: In a run of cohorts, the number of those who take turns in the slots.
        functions: The number of functions.
        steps: The number of updates of each worker, or of commits if the schedule counts those.
        snapshot_every: The number of updates of each worker after which a snapshot is taken.
        lease_s: The seconds that a lease lasts after its holder's last sign of life.
        rates: The share of requests that meet each fault.
        storm: The seconds from and to which the store refuses most requests.
        outage: The seconds from and to which the store is down, so that no request has any effect.
        crash, freeze, spare, lie: The probabilities that a life of a function is killed, stands still, gets a double,
            and is told that living functions are dead.
        short: The probability that a life of a function has a lifetime of less than 5 seconds.
        skew_s: The most seconds that a function's clock is off, to either side.
        turns: The most turns that a killed function makes.
        bad: The share of updates that must be rejected.
        evaluation_s: The seconds of a snapshot's evaluation in a run with a target, or 0 for a run without one.
        damage: The share of reads that are damaged on their way.
        keep_bytes, keep_rounds: The bytes and the rounds of history that the run keeps; None sets no bound.
        algorithm: The algorithm, with its arguments.
        error_feedback: Whether workers keep residuals, so that they remember something.
        announce_s: The seconds of an upload after which the next update is announced; None if none is.
        recover_s: The seconds of compute after which a memory is written.
        spoiled: The share of updates that the store damages for good, among those that others judge.
        uneven: The standard deviation of the logarithm of a step's time.
        calm_s: The seconds after which faults end.
        pattern: The pattern, with its arguments.
        tune: The tuner, with its arguments, of a run whose codec has a knob; None if there is none.
    """

    seed: int
    schedule: str
    workers: int
    functions: int
    steps: int
    snapshot_every: int
    lease_s: float
    rates: dict[str, float] = field(default_factory=dict)
    storm: tuple[float, float] = (0.0, 0.0)
    crash: float = 0.0
    freeze: float = 0.0
    spare: float = 0.0
    lie: float = 0.0
    short: float = 0.0
    skew_s: float = 0.0
    turns: int = 400
    bad: float = 0.0
    evaluation_s: float = 0.0
    damage: float = 0.0
    keep_bytes: int | None = None
    keep_rounds: int | None = None
    clients: int | None = None
    outage: tuple[float, float] = (0.0, 0.0)
    calm_s: float = 60.0
    algorithm: str = "gradient"
    error_feedback: bool = False
    recover_s: float = 30.0
    spoiled: float = 0.0
    uneven: float = 0.0
    pattern: str = "gather"
    announce_s: float | None = None
    tune: str | None = None

    @staticmethod
    def draw(seed: int, schedule: str | None = None) -> FaultScenario:
        """Draw the scenario of a seed, with a drawn schedule or the one given.

        About a third of the kinds of faults strike in each, so that most pairs of them meet somewhere. A third of the
        scenarios also has what troubles memories.
        """
        stream = random.Random(seed)

        def chance(value: float) -> float:
            return value * stream.random() if stream.random() < 0.35 else 0.0

        drawn = stream.choice(_SCHEDULES)
        start_s = 8 * stream.random()
        scenario = FaultScenario(
            seed=seed,
            schedule=schedule or drawn,
            workers=stream.randint(2, 4),
            functions=stream.randint(1, 3),
            steps=stream.randint(2, 5),
            snapshot_every=stream.randint(1, 4),
            lease_s=stream.choice((2.0, 4.0, 10.0)),
            rates={kind: chance(0.1) for kind in _KINDS},
            storm=(start_s, start_s + (chance(20.0))),
            crash=chance(1.0),
            freeze=chance(0.6),
            spare=chance(0.6),
            lie=chance(1.0),
            short=chance(0.8),
            skew_s=chance(1000.0),
            turns=stream.choice((60, 200, 600)),
            bad=chance(0.2),
            evaluation_s=chance(10.0),
            damage=chance(0.05),
            keep_bytes=stream.choice((None, None, 1, 2000)),
            outage=(start_s, start_s + chance(50.0)),
            algorithm=stream.choice(("gradient", "gradient", "local:2", "local:auto,most=3")),
            error_feedback=stream.random() < 0.5,
            recover_s=stream.choice((0.05, 0.3, 30.0)),
            uneven=chance(0.8),
        )
        # Streams of their own, so that most older seeds stay as they were.
        overlap = random.Random(f"{seed}/delay")
        if schedule is None and overlap.random() < 0.15:
            scenario.schedule = overlap.choice(_PIPELINES)
        if scenario.schedule == "bsp" and random.Random(f"{seed}/duals").random() < 0.2:
            scenario.algorithm = "admm:1,steps=2"
        scenario._form_cohorts(random.Random(f"{seed}/cohort"), anyway=schedule is None)
        grouped = random.Random(f"{seed}/groups")
        if schedule is None and grouped.random() < 0.1:
            scenario.schedule = grouped.choice(_GROUPS)
        alone = rounds_at_once(SCHEDULES.make(scenario.schedule)) > 0
        if alone:
            scenario._have_own_models(random.Random(f"{seed}/own models"))
        scenario.keep_rounds = random.Random(f"{seed}/rounds").choice((None, None, 1, 3))
        scenario.pattern = random.Random(f"{seed}/pattern").choice(fitting_patterns(scenario))
        if stream.random() < 0.3:
            scenario = scenario._troubling_memories(stream)
        whole = random.Random(f"{seed}/statistics").random() < 0.2
        if whole and scenario.algorithm == "gradient" and not scenario.error_feedback:
            scenario.algorithm = "statistics"
        if alone:  # nothing is left unsent, and a publisher averages what it made, others what they read
            scenario.error_feedback, scenario.spoiled = False, 0.0
        else:
            scenario._form_data_centres()
        return scenario

    def _form_data_centres(self) -> None:
        """Make this a run of Gaia in some cases. If workers may lead, let them announce their updates in some cases."""
        if random.Random(f"{self.seed}/ahead").random() < 0.15:
            self.algorithm, self.error_feedback = GAIA, True
        if isinstance(SCHEDULES.make(self.schedule), Ssp) and random.Random(f"{self.seed}/announce").random() < 0.5:
            self.announce_s, self.crash = 0.001, max(self.crash, 0.8)  # also between an announcement and its update

    def _have_own_models(self, stream: random.Random) -> None:
        """Make this a run whose workers have models of their own, which goes on for more rounds."""
        every = stream.randint(1, 3)
        self.schedule += "" if "every" in self.schedule else f",every={every}"
        self.workers, self.clients, self.steps = 4, None, self.steps + 3
        self.algorithm = stream.choice(("local:1,sends=models", "local:2,sends=models,inner=anew"))

    def _form_cohorts(self, stream: random.Random, anyway: bool) -> None:
        """Make this a run of cohorts, if its schedule says so, or it is bsp and may be one `anyway`."""
        if anyway and self.schedule == "bsp" and stream.random() < 0.4:
            self.schedule = f"cohort:{self.workers}"
        size = cohort_of(SCHEDULES.make(self.schedule))
        if size is not None:
            self.workers, self.functions = size, min(self.functions, size)
            self.clients = size + stream.randint(1, 4)
            self.steps += 2
            if self.algorithm in ("local:auto,most=3", "admm:1,steps=2"):  # which need every worker in each round
                self.algorithm = "local:2"

    def _troubling_memories(self, stream: random.Random) -> FaultScenario:
        """Return this scenario with more of what memories suffer from: they are rarely written, functions die and meet
        at one worker, at different bases since steps take unequal times, and updates are damaged for good."""
        return replace(
            self,
            steps=self.steps + 2,
            crash=max(self.crash, 0.5 * stream.random()),
            spare=0.8 * stream.random(),
            lie=0.8 * stream.random(),
            uneven=0.8,
            spoiled=0.2 * stream.random() * (stream.random() < 0.4),
            error_feedback=True,
            recover_s=stream.choice((0.5, 30.0, 30.0)),
        )

    def strike(self, op: Op, key: str, now: float, uniform: Callable[[], float]) -> str:
        """Choose the fault of a request; see `lambdaml.simulation.virtual.FaultInjector`."""
        if now > self.calm_s:
            return ""
        if self.outage[0] <= now < self.outage[1]:
            return "down"
        if self.storm[0] <= now < self.storm[1] and uniform() < 0.7:
            return "slowdown"
        unit = uniform()
        for kind, rate in self.rates.items():
            if unit < rate:
                return kind
            unit -= rate
        if op == "create" and self.spoiled and key.startswith(keys.UPDATES):
            return "spoil" if 0.0 <= unit < self.spoiled and self._may_spoil(key) else ""
        return "damage" if op == "get" and 0.0 <= unit < self.damage else ""

    def _may_spoil(self, key: str) -> bool:
        """Return whether others than the publisher of an update are likely to decide its fate.

        A publisher does not read its updates back. So the log applies a damaged one if its publisher decides.
        """
        logged = not SCHEDULES.make(self.schedule).deterministic
        return logged and keys.update_id(key)[0] % self.functions != 0

    def fault_plan(self, virtual: VirtualRun, name: str, index: int) -> FaultPlan:
        """Plan one life. It may or may not be told which functions died, and may be told of a living one."""
        stream = random.Random(f"{self.seed}/{name}")
        dead = [life.name for life in virtual.lives if life.outcome == "killed" and stream.random() < 0.7]
        plan = FaultPlan(skew_s=self.skew_s * stream.uniform(-1, 1), drift=1e-5 * stream.uniform(-1, 1))
        if virtual.kernel.now < self.calm_s:
            living = [life.name for life in virtual.lives if life.ended_s is None]
            if living and stream.random() < self.lie:
                dead.append(stream.choice(living))
            if stream.random() < self.crash:
                plan.last_turn = stream.randint(1, self.turns)
            if stream.random() < self.freeze:
                plan.freeze_s = (3 * stream.random(), 60 * stream.random())
            if stream.random() < self.short:
                plan.lifetime_s = 5 * stream.random()
            if not name.endswith("s") and stream.random() < self.spare:
                virtual.kernel.at(virtual.kernel.now + 3 * stream.random(), lambda: virtual.launch(index, spare=True))
        plan.dead = tuple(dead)
        plan.restart_s = stream.choice((0.1, 1.0, 5.0))
        return plan

    def is_bad(self, worker: int, seq: int) -> bool:
        """Return whether this update is one that every replica rejects."""
        return self.bad > 0 and random.Random(f"{self.seed}/{worker}/{seq}").random() < self.bad


def fitting_patterns(scenario: FaultScenario) -> list[str]:
    """Return those of `PATTERNS_TRIED` that fit a scenario's schedule."""
    fitting = []
    for pattern in PATTERNS_TRIED:
        with suppress(SettingsError):
            Parts.of(RunOptions(workers=scenario.workers, schedule=scenario.schedule, pattern=pattern))
            fitting.append(pattern)
    return fitting


@dataclass(slots=True)
class Verdict:
    """The outcome of a seed.

    Attributes:
        seed: The seed.
        scenario: The scenario that was drawn from it.
        broken: A sentence about each broken promise; it is empty if every promise held.
    """

    seed: int
    scenario: FaultScenario
    broken: list[str]

    @property
    def command(self) -> str:
        """The command that replays this history, with its events."""
        return f"lambdaml simulate --faults {self.seed} --schedule {self.scenario.schedule}"


def play(
    scenario: FaultScenario, trace: Callable[[float, Event], None] = lambda now, event: None
) -> tuple[VirtualRun, str]:
    """Run a scenario, and return what remains and how it ended: "" if well, and otherwise in words."""
    settings = Settings(
        job=JobSettings(spec="shadow"),
        workers=scenario.workers,
        clients=scenario.clients,
        steps=scenario.steps,
        schedule=scenario.schedule,
        pattern=scenario.pattern,
        algorithm=scenario.algorithm,
        codec="fp32" if scenario.tune is None else "significant:0.5",
        tune=scenario.tune,
        error_feedback=float(scenario.error_feedback),
        recover_s=scenario.recover_s,
        announce_s=scenario.announce_s,
        batch_size=8,
        samples=8 * (scenario.clients or scenario.workers) * scenario.steps,
        steps_per_epoch=scenario.steps,
        parameters=1,
        snapshot_every=scenario.snapshot_every,
        lease_s=scenario.lease_s,
        max_rejected=10_000,
        patience_s=300.0,
        keep_bytes=scenario.keep_bytes,
        keep_rounds=scenario.keep_rounds,
        target="accuracy>=1" if scenario.evaluation_s else None,
        token="shadow",
    )
    evaluations = VirtualEvaluations(scenario.evaluation_s)

    def tell(now: float, event: Event) -> None:
        if scenario.evaluation_s:
            evaluations.take(now, event)
        trace(now, event)

    virtual = VirtualRun(
        settings,
        scenario.functions,
        Costs(step_s=0.1, apply_s=0.001),
        Channel.parse("s3-express"),
        Platform.parse("local"),
        stragglers=Lognormal(scenario.uneven) if scenario.uneven else Even(),
        seed=scenario.seed,
        injector=scenario,
        fault_plan=scenario.fault_plan,
        bad=scenario.is_bad,
        trace=tell,
    )
    evaluations.attend(virtual)
    try:
        ended = virtual.run(LIMIT_S)
    except LambdaMLError as error:
        return virtual, f"{type(error).__name__}: {error}"
    except Exception as error:
        return virtual, f"unexpected {error!r}"
    return virtual, "" if ended else "it never ended"


def try_seeds(
    seeds: Iterable[int],
    schedule: str | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Verdict]:
    """Play these seeds and return the verdicts on those that broke a promise.

    Args:
        schedule: The schedule of all seeds. By default each seed draws one of `SCHEDULES_TRIED`.
        progress: A function that is called with the number of finished seeds.
    """
    found = []
    gc.disable()
    try:
        for done, seed in enumerate(seeds, 1):
            scenario = FaultScenario.draw(seed, schedule)
            virtual, end = play(scenario)
            broken = judge(virtual, end)
            if broken:
                found.append(Verdict(seed, scenario, broken))
            if done % 200 == 0:
                gc.collect()
            progress(done)
    finally:
        gc.enable()
    return found
