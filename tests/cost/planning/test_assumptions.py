"""A plan lists every input that entered its numbers, and none that did not."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest

from lambdaml.cost.billing.prices import Price, PriceBook
from lambdaml.cost.planning import plan as planning
from lambdaml.cost.planning.assumptions import Assumption
from lambdaml.cost.planning.candidates import SearchSpace
from lambdaml.cost.planning.objective import Objective
from lambdaml.cost.planning.pilot import PilotRun
from lambdaml.cost.planning.plan import make_plan
from lambdaml.cost.profiling import facts
from lambdaml.cost.profiling import profile as profiles
from lambdaml.cost.profiling.iprof import Device, IProf
from lambdaml.cost.profiling.profile import Profile
from lambdaml.cost.profiling.startup import Startup
from lambdaml.simulation.channel import Channel, Empirical
from lambdaml.simulation.platform import Platform
from lambdaml.storage.latency import LatencyModel
from tests.cost.planning.test_plan import LOCAL, NESTEROV, PILOTS, TARGET
from tests.cost.profiles import coded, digits

PARTS = [
    kind
    for module in (facts, profiles)
    for kind in vars(module).values()
    if isinstance(kind, type) and is_dataclass(kind) and kind.__module__ == module.__name__
]
WATCHED = {*PARTS, PilotRun, Startup, Platform, Channel, LatencyModel, Empirical, Price}

NO_NUMBERS = {
    "JobFacts.algorithm",
    *("Profile.job", "Profile.machine", "Profile.step_time", "Profile.memory", "Profile.codecs", "Profile.store"),
    *("Profile.startup", "Profile.noise", "Profile.coherence", "Profile.pilot"),  # what these hold is watched
    *(
        "PilotRun.algorithm",
        "PilotRun.codec",
        "Profile.target",
        "StoreFacts.url",
        "Channel.name",
        "Platform.name",
        "Platform.spec",
    ),
}
"""Fields that hold others, or names."""

UNUSED = {"Platform.notice_s"}
"""Read to be checked, or to make a copy with another name, and for nothing else."""

MEASURED_HERE = "Platform.cold_start_s"
"""Of `local` it is read and replaced by what was measured."""


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """The inputs that planning reads, from now on until it lists its assumptions."""
    seen: set[str] = set()
    watching = [True]

    def note(name: str) -> None:
        if watching[0]:
            seen.add(name)

    def watch(kind: type) -> None:
        names = {field.name for field in fields(kind)}

        def getattribute(self: Any, name: str) -> Any:
            if name in names:
                if kind is not Price:
                    note(f"{kind.__name__}.{name}")
                elif name == "usd":
                    note(f"Price({object.__getattribute__(self, 'id')})")
            return object.__getattribute__(self, name)

        monkeypatch.setattr(kind, "__getattribute__", getattribute)

    slowdown, listed = IProf.slowdown, planning.assumptions

    def asked(self: IProf, device: Device) -> float:
        note(f"IProf.slowdown({device.name})")
        return slowdown(self, device)

    def stop(basis: Any) -> Iterator[Assumption]:
        watching[0] = False
        return listed(basis)

    monkeypatch.setattr(IProf, "slowdown", asked)
    monkeypatch.setattr(planning, "assumptions", stop)
    for kind in WATCHED:
        watch(kind)
    yield seen


def profile(**changes: Any) -> Profile:
    known: dict[str, Any] = {"target": TARGET, "pilot": PILOTS, "startup": Startup(2.0, 0.3)}
    return replace(digits(), **(known | changes))


def space(**changes: Any) -> SearchSpace:
    return replace(
        SearchSpace(workers=(2, 2), schedules=("bsp", "asp"), batch_sizes=(32,), codecs=("fp32",)), **changes
    )


COHERENT = tuple(run for run in PILOTS if not run.delay)

WAYS: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "lambda on s3": ({}, {"target": TARGET, "space": space(channels=("s3-standard",))}, True),
    "local, measured": ({}, {"target": TARGET, "space": space(platforms=("local",), channels=("measured",))}, True),
    "spot, express, no history": (
        {},
        {"target": TARGET, "space": space(platforms=("spot",), channels=("s3-express",))},
        False,
    ),
    "coherence for staleness": ({"pilot": COHERENT}, {"target": TARGET, "space": space(platforms=("local",))}, True),
    "local steps on lambda": (
        {"pilot": (*PILOTS, *LOCAL)},
        {"target": TARGET, "space": space(channels=("s3-standard",), algorithms=(NESTEROV, "gradient"))},
        True,
    ),
    "error feedback on lambda": (
        {"pilot": coded().pilot, "codecs": coded().codecs},
        {"target": TARGET, "space": space(channels=("s3-standard",), schedules=("bsp",), codecs=("topk:0.01",))},
        True,
    ),
    "functions in two regions": (
        {},
        {
            "target": TARGET,
            "space": space(
                channels=("s3-standard",), workers=(3, 3), schedules=("bsp",), platforms=("lambda-arm:1769",)
            ),
            "regions": "us-east-1:2,ap-south-1:1",
        },
        True,
    ),
    "epochs, both batches and codecs": (
        {},
        {"epochs": 2.0, "space": space(platforms=("local",), batch_sizes=(), codecs=())},
        True,
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_is_used_is_listed_and_what_is_listed_is_used(way: str, request: pytest.FixtureRequest) -> None:
    changes, wanted, learnt = WAYS[way]
    made, book = profile(**changes), PriceBook.load()
    read: set[str] = request.getfixturevalue("read")
    found = make_plan(made, Objective(**wanted), book, iprof=IProf() if learnt else None, processes=1)
    used = read - NO_NUMBERS - UNUSED
    if wanted["space"].platforms == ("local",):
        used.remove(MEASURED_HERE)
    listed = {name for row in found.assumptions for name in row.inputs}
    assert {"StepTime.overhead_s", "CodecFacts.update_bytes", "Profile.optimizer_s"} <= used
    assert any(name.startswith("IProf.slowdown") for name in used) == learnt
    assert sorted(used - listed) == [], "used and not listed"
    assert sorted(listed - used) == [], "listed and not used"


def test_every_row_has_a_value_a_unit_or_none_and_a_mark() -> None:
    objective = Objective(TARGET, deadline_s=1e9, budget_usd=1e9, remaining=0.5, snapshot_every=3, space=space())
    found = make_plan(profile(), objective, iprof=IProf(), processes=1).assumptions
    assert len({row.what for row in found}) == len(found), "rows can be told apart"
    for row in found:
        assert row.mark in ("measured", "given", "assumed")
        assert row.value != "" and row.value is not None and row.value != math.inf
    told = {row.what: row for row in found}
    assert told["deadline"].mark == "given" and told["updates of a worker to a snapshot"].mark == "given"


def test_what_i_prof_learnt_is_measured_and_what_it_supposes_is_assumed() -> None:
    objective, iprof = Objective(TARGET, space=space(platforms=("local",))), IProf()

    def row() -> Assumption:
        (found,) = [
            row
            for row in make_plan(profile(), objective, iprof=iprof, processes=1).assumptions
            if "over the m" in row.what
        ]
        return found

    assert (row().mark, row().value) == ("assumed", "1.00")
    device = Device.here(objective.space.functions_for(objective.space.candidates(profile())[0]))
    iprof.learn_run(device, profile(), [{"samples": 32, "compute_s": 3 * profile().step_time.step_s(32)}])
    assert row().mark == "measured" and float(str(row().value)) > 2 and device.name in row().what
