"""`--schedule auto`: measures, plans, tells the choice, trains, and plans again if reality departs from the plan."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from lambdaml.cli._follow import follow, met
from lambdaml.cli._interrupt import interruptible
from lambdaml.cli._measured import measured
from lambdaml.cli._progress import Share
from lambdaml.errors import UserError
from lambdaml.parts import Parts

if TYPE_CHECKING:
    from lambdaml import Plan
    from lambdaml.events import Emit, Event
    from lambdaml.options import RunOptions
    from lambdaml.storage import Store
    from lambdaml.training.driver import TrainResult

MEASURE_S = 10.0


class _Superseded(Exception):
    """The run has ended at this version, so that a run with this plan can continue."""

    def __init__(self, version: int, successor: Plan) -> None:
        self.version, self.successor = version, successor


def _announce(plan: Plan) -> None:
    """Say what was chosen, and why."""
    assert plan.choice is not None
    print(f"planned: {plan.choice.candidate}: {plan.reason}", file=sys.stderr)


def _learn(plan: Plan, run: str) -> None:
    """Record how fast this machine was, for the next plan."""
    import lambdaml
    from lambdaml.cost.profiling.iprof import Device, busy, learn

    assert plan.choice is not None
    rows, functions = lambdaml.Run(run).trace(), plan.choice.functions
    batches = plan.choice.candidate.batches(plan.profile.job.samples)
    learn(plan.profile, rows, Device.here(functions, busy(rows, functions)), batches=batches)


def train_planned(job: str, place: str, options: RunOptions, profile: Path | None, replan: bool, as_json: bool) -> int:
    """Plan, train like `lambdaml.train` with these options, and return the exit status.

    Raises:
        UserError: If there is neither a target nor epochs, or no plan reaches the target.
    """
    if options.init_from and options.target:
        raise UserError(
            "--from: plans to a target are made from pilots, which begin with a fresh model; give a schedule"
        )
    any_pattern = options.pattern == "auto"
    options = replace(options, pattern="gather") if any_pattern else options
    Parts.of(replace(options, schedule="bsp"))  # refuses parts that do not go together before anything is measured
    if replan:
        _demand_replannable(place, options)
    plan = _planned(job, place, options, profile, any_pattern)
    options = replace(options, **plan.options())
    first, number = place, 1
    while True:
        _announce(plan)
        train = partial(_train_watched, plan, job, place, options) if replan else partial(_train, job, options)
        try:
            status = follow(place, train, as_json=as_json)
        except _Superseded as superseded:
            _learn(plan, place)
            plan = superseded.successor
            origin = f"{place}@{superseded.version}"
            options = replace(options, **plan.options(), init_from=origin, seed=options.seed + 1)
            place, number = _beside(first, number + 1)
            continue
        if status == 0:
            _learn(plan, place)
        return status


def _train(job: str, options: RunOptions, store: Store, on_event: Emit) -> TrainResult:
    import lambdaml

    return lambdaml.train(job, store, **options.keywords() | {"on_event": on_event})


def _train_watched(plan: Plan, job: str, place: str, options: RunOptions, store: Store, on_event: Emit) -> TrainResult:
    """Train like `_train` and watch the plan.

    Raises:
        _Superseded: If the run ended so that another plan can take over.
    """
    from lambdaml.cost.planning.replan import Replanner
    from lambdaml.cost.profiling.iprof import IProf
    from lambdaml.events import PlanEvent

    def say(line: str) -> None:
        on_event(PlanEvent(line=line))

    watch = Replanner(place, plan, IProf.open(plan.profile), say)

    def take(event: Event) -> None:
        on_event(event)
        watch.take(event)

    try:
        result = _train(job, options, store, take)
    finally:
        watch.close()
    if result.stop == "replanned" and watch.successor is not None and not met(result, options.target):
        raise _Superseded(result.version, watch.successor)
    return result


def _demand_replannable(place: str, options: RunOptions) -> None:
    """Raise a UserError if a run with these options could not be planned again."""
    from lambdaml.storage import open_store

    for name, given in (("--steps", options.steps), ("a cap", options.cap)):
        if given is not None:
            raise UserError(f"--replan: a successor is a run of its own, which {name} would not count")
    store = open_store(place)
    try:
        if store.ephemeral:
            raise UserError(f"--replan: a successor reads its predecessor, and {place} is gone with this command")
        if not urlsplit(store.url).path.strip("/"):
            raise UserError(
                f"--replan: a successor lies beside its predecessor: give a place in {place}, not all of it"
            )
    finally:
        store.close()


def _beside(first: str, number: int) -> tuple[str, int]:
    """Find the first free place of `a.2`, `a.3` ... from this number on, beside the first run's `a`, and its number."""
    from lambdaml.log import keys
    from lambdaml.storage import open_store

    path, query, options = first.partition("?")
    if not os.path.basename(path.rstrip("/")).strip("."):
        path = os.path.abspath(path)
    while True:
        place = f"{path.rstrip('/')}.{number}{query}{options}"
        store = open_store(place)
        try:
            if store.head(keys.RUN) is None:
                return place, number
        finally:
            store.close()
        number += 1


def _planned(job: str, store: str, options: RunOptions, profile: Path | None, any_pattern: bool) -> Plan:
    """Plan the fastest way on this machine to the target or epochs of these options, with at most their workers.

    Plans know of no brackets and staleness rules. If these were asked for, only the pattern of the options is planned.
    """
    import lambdaml

    target, epochs, workers = options.target, options.epochs, options.workers
    free = any_pattern and options.bracket is None and options.staleness == "constant"
    space = lambdaml.SearchSpace(
        workers=(1, workers),
        platforms=("local",),
        functions=options.functions,
        algorithms=(options.algorithm,),
        patterns=() if free else (options.pattern,),
    )
    algorithms = space.algorithm_names
    if profile is not None:
        known = lambdaml.Profile.load(profile)
    else:
        wanted = None if epochs else target
        asked = {"args": options.args, "store": store, "target": wanted, "workers": workers}
        known = measured(job, algorithms=algorithms, seconds=MEASURE_S, **asked)
    with Share("planning") as share, interruptible(share.stop, share.close):
        return lambdaml.plan(
            known,
            target=target,
            epochs=epochs,
            minimise="time",
            space=space,
            snapshot_every=options.snapshot_every,
            crossover=False,
            elsewhere=False,
            progress=share,
        )
