"""A store that is down for a minute: the run goes on, and nobody loses a worker because he could not renew its lease."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lambdaml.algorithms import Assignment
from lambdaml.errors import JobFailed
from lambdaml.events import Event
from lambdaml.log import keys
from lambdaml.settings import JobSettings, Settings
from lambdaml.simulation.channel import Channel
from lambdaml.simulation.engine import VirtualRun
from lambdaml.simulation.judge import judge
from lambdaml.simulation.platform import Platform
from lambdaml.simulation.stub_replica import Costs, StubReplica
from lambdaml.storage.backend import Op
from lambdaml.worker.leases import Leases

LEASE_S = 30.0


class Outage:
    """The store is down from one moment to another. What fails may have taken effect, if `applied`."""

    def __init__(self, begin_s: float, end_s: float, applied: bool = False) -> None:
        self.begin_s, self.end_s, self.applied = begin_s, end_s, applied

    def strike(self, op: Op, key: str, now: float, uniform: Callable[[], float]) -> str:
        if not self.begin_s <= now < self.end_s:
            return ""
        return "lost" if self.applied and now < self.begin_s + 0.2 else "down"


def run(schedule: str, outage: Outage, seed: int = 0, **settings: Any) -> tuple[VirtualRun, list[tuple[float, Event]]]:
    """Four workers on three functions, 16 updates each of two seconds, and what was told."""
    told: list[tuple[float, Event]] = []
    virtual = VirtualRun(
        Settings(
            job=JobSettings(spec="shadow"),
            workers=4,
            steps=16,
            schedule=schedule,
            batch_size=8,
            samples=8 * 4 * 16,
            steps_per_epoch=10,
            parameters=1,
            snapshot_every=10,
            lease_s=LEASE_S,
            token="shadow",
            **settings,
        ),
        3,
        Costs(step_s=2.0),
        Channel.parse("s3-standard"),
        Platform.parse("local"),
        seed=seed,
        injector=outage,
        trace=lambda now, event: told.append((now, event)),
    )
    return virtual, told


@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.parametrize("schedule", ["bsp", "asp", "ssp:2", "quorum:2"])
def test_after_an_outage_of_two_leases_nobody_is_taken_over_and_nothing_is_computed_twice(
    schedule: str, applied: bool
) -> None:
    for seed in range(2):
        virtual, told = run(schedule, Outage(12.3 + seed, 72.3 + seed, applied), seed)
        assert virtual.run(3600.0)
        assert [event for _, event in told if event.event == "takeover"] == []
        assert [life.name for life in virtual.lives] == ["f0.0", "f1.0", "f2.0"]
        assert {life.outcome for life in virtual.lives} == {"done"}
        holders = {keys.update_id(info.key)[0]: set[str]() for info in virtual.bucket.list(keys.UPDATES)}
        for info in virtual.bucket.list(keys.UPDATES):
            data = virtual.bucket.get(info.key) or b""
            holders[keys.update_id(info.key)[0]].add(
                next(name for name in ("f0.0", "f1.0", "f2.0") if name.encode() in data)
            )
        assert all(len(names) == 1 for names in holders.values()), "a worker's updates are all one function's"
        assert judge(virtual, "") == []
        assert {event.event for _, event in told} >= {"outage", "recovered"}


def test_without_the_rule_functions_take_over_from_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail."""
    monkeypatch.setattr(Leases, "_recovering", lambda self, duration_s: False)
    for seed in range(10):
        virtual, told = run("asp", Outage(12.3 + seed, 72.3 + seed), seed)
        virtual.run(3600.0)
        if any(event.event == "takeover" for _, event in told):
            return
    pytest.fail("nobody was taken over in ten runs")


def test_who_died_in_the_outage_is_replaced_after_it() -> None:
    virtual, _ = run("asp", Outage(10.0, 70.0))
    virtual.kernel.at(30.0, lambda: virtual.lives[0].world.group.kill())
    assert virtual.run(3600.0)
    assert [life.name for life in virtual.lives] == ["f0.0", "f1.0", "f2.0", "f0.1"]
    assert judge(virtual, "") == []


def test_an_outage_that_outlasts_the_patience_ends_a_function_with_the_stores_error() -> None:
    virtual, _ = run("bsp", Outage(10.0, 300.0), patience_s=100.0)
    assert virtual.run(3600.0), "the engine starts others"
    ends = [life.outcome for life in virtual.lives if "in vain" in life.outcome]
    assert ends and all("connection failed" in end and "resume the run" in end for end in ends)
    assert all("nothing happened" not in life.outcome for life in virtual.lives)
    assert judge(virtual, "") == []


def test_a_function_that_is_to_leave_does_not_wait_for_the_store() -> None:
    virtual, told = run("asp", Outage(10.0, 500.0))
    virtual.kernel.at(40.0, lambda: [life.world.ask_to_leave() for life in virtual.lives])
    assert not virtual.run(80.0)
    ended = [now for now, event in told if event.event == "ended"]
    assert len(ended) >= 3 and max(ended[:3]) < 60.0


def test_a_function_whose_job_failed_says_so_although_the_store_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    compute = StubReplica.compute

    def fail(self: StubReplica, assignment: Assignment) -> Any:
        if self._clock() > 10.0:
            raise JobFailed("no such file")
        return compute(self, assignment)

    monkeypatch.setattr(StubReplica, "compute", fail)
    virtual, told = run("asp", Outage(10.0, 500.0))
    with pytest.raises(JobFailed, match="no such file"):
        virtual.run(60.0)
    ends = [event.outcome for now, event in told if event.event == "ended" and now < 30.0]
    assert any(end.startswith("update ") and end.endswith("): no such file") for end in ends)
