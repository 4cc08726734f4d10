"""`--schedule auto`: measure, plan, say what was chosen, train, and plan anew where reality leaves the plan."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from lambdaml.cli._follow import follow, met
from lambdaml.cli._interrupt import interruptible
from lambdaml.cli._measured import measured
from lambdaml.cli._progress import Share
from lambdaml.errors import UserError

if TYPE_CHECKING:
    from lambdaml.cost.iprof import IProf
    from lambdaml.cost.plan import Plan
    from lambdaml.cost.profile import Profile
    from lambdaml.storage import Store
    from lambdaml.training import TrainResult

MEASURE_S = 10.0


class _Superseded(Exception):
    """The run has ended at this version for its successor to go on."""

    def __init__(self, version: int) -> None:
        self.version = version


@dataclass(slots=True)
class _Auto:
    """What was planned, and from what."""

    plan: Plan
    profile: Profile
    iprof: IProf
    functions: int

    def announce(self) -> None:
        """Say what was chosen, and why."""
        assert self.plan.choice is not None
        print(f"planned: {self.plan.choice.candidate}: {self.plan.reason}", file=sys.stderr)

    def learn(self, run: str) -> None:
        """Let the next plan know how fast this machine was."""
        from lambdaml.cost.iprof import Device, busy, learn
        from lambdaml.run import Run

        assert self.plan.choice is not None
        functions = min(self.plan.choice.candidate.workers, self.functions)
        rows = Run(run).trace()
        learn(self.profile, rows, Device.here(functions, busy(rows, functions)))


def train_planned(
    job: str, place: str, options: dict[str, Any], profile: Path | None, replan: bool, as_json: bool
) -> int:
    """Plan and train as `lambdaml.train` with these options; returns the exit status.

    Raises:
        UserError: there is neither target nor epochs, or no plan reaches the target.
    """
    if options["origin"] and options["target"]:
        raise UserError(
            "--from: plans to a target are made from pilots, which begin with a fresh model; give a schedule"
        )
    if replan:
        _demand_replannable(place, options)
    auto = _planned(job, place, options, profile)
    options = options | auto.plan.options()
    first, number = place, 1
    while True:
        auto.announce()
        watched = _Watched(job, place, options, auto if replan else None)
        try:
            status = follow(place, watched, as_json=as_json)
        except _Superseded as superseded:
            assert watched.successor is not None
            auto.learn(place)
            auto.plan = watched.successor
            origin = f"{place}@{superseded.version}"
            options |= {**auto.plan.options(), "origin": origin, "seed": options["seed"] + 1}
            place, number = _beside(first, number + 1)
            continue
        if status == 0:
            auto.learn(place)
        return status


class _Watched:
    """One run, for `follow`; with `auto`, one that may end for a successor to go on."""

    def __init__(self, job: str, place: str, options: Mapping[str, Any], auto: _Auto | None) -> None:
        self.successor: Plan | None = None
        self._job, self._place, self._options, self._auto = job, place, options, auto

    def __call__(self, store: Store, on_event: Callable[[dict[str, Any]], None]) -> TrainResult:
        import lambdaml

        if self._auto is None:
            return lambdaml.train(self._job, store, on_event=on_event, **self._options)
        from lambdaml.cost.replan import Replanner

        auto = self._auto

        def say(line: str) -> None:
            on_event({"event": "plan", "line": line})

        functions = min(self._options["workers"], auto.functions)
        watch = Replanner(self._place, auto.plan, auto.profile, auto.iprof, functions, say)

        def take(event: dict[str, Any]) -> None:
            on_event(event)
            watch.take(event)

        try:
            result = lambdaml.train(self._job, store, on_event=take, **self._options)
        finally:
            watch.close()
        self.successor = watch.successor
        if result.stop == "replanned" and self.successor is not None and not met(result, self._options["target"]):
            raise _Superseded(result.version)
        return result


def _demand_replannable(place: str, options: Mapping[str, Any]) -> None:
    """Raises UserError."""
    from lambdaml.storage import open_store

    for name, given in (("--steps", options["steps"]), ("a cap", options["cap"])):
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
    """The next free place of `a.2`, `a.3` ..., from this number on, beside the first run's `a`; and its number."""
    from lambdaml import keys
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


def _planned(job: str, store: str, options: Mapping[str, Any], profile: Path | None) -> _Auto:
    """The fastest way on this machine to the target or epochs of these options, with at most their workers."""
    from lambdaml.cost.candidates import Space
    from lambdaml.cost.iprof import IProf
    from lambdaml.cost.plan import Wishes, make_plan
    from lambdaml.cost.profile import MEASURED, Profile

    target, epochs = options["target"], options["epochs"]
    if profile is not None:
        known = Profile.load(profile)
    else:
        known = measured(
            job,
            args=options["args"],
            store=store,
            target=None if epochs else target,
            workers=options["workers"],
            seconds=MEASURE_S,
        )
    space = Space(
        workers=(1, options["workers"]),
        channels=(MEASURED if known.store else "disk",),
        platforms=("local",),
        functions=options["functions"] or os.cpu_count(),
    )
    wishes = Wishes(target, epochs, minimise="time", space=space, snapshot_every=options["snapshot_every"])
    with Share("planning") as share, interruptible(share.stop):
        iprof = IProf.open(known)
        found = make_plan(known, wishes, iprof=iprof, progress=share)
    return _Auto(found, known, iprof, space.functions or 1)
