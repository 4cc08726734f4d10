"""What updates take in a function's memory: bounded in bytes, whatever happens, and no run waits for ever for room."""

from __future__ import annotations

from typing import Any

import pytest

from lambdaml.errors import RunFailed
from lambdaml.log import keys
from lambdaml.log.records import Update
from lambdaml.patterns import gather
from lambdaml.simulation.channel import Channel
from lambdaml.simulation.engine import FaultPlan, VirtualRun
from lambdaml.simulation.faults import SCHEDULES_TRIED, FaultScenario, play
from lambdaml.simulation.judge import judge
from lambdaml.simulation.platform import Platform
from lambdaml.simulation.stub_replica import Costs
from lambdaml.worker import window
from lambdaml.worker.backlog import Backlog
from lambdaml.worker.function import Function
from lambdaml.worker.shared import Shared
from lambdaml.worker.window import Window, most_bytes
from tests.lambdaml.lab import light
from tests.lambdaml.simulation.scenes import scene, settings_for

MB = 2**20


class Held:
    """The most that each window held, beside what it may."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.most: dict[Window, int] = {}
        self.over: list[str] = []
        for name in ("reserve", "hold"):
            monkeypatch.setattr(Window, name, self._watched(getattr(Window, name)))

    def _watched(self, method: Any) -> Any:
        def watched(one: Window, *arguments: Any) -> None:
            method(one, *arguments)
            self.most[one] = max(self.most.get(one, 0), one.held_bytes)
            if one.held_bytes > one.limit_bytes:
                self.over.append(f"{one.held_bytes} of {one.limit_bytes}")

        return watched


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    return Held(monkeypatch)


def ended(virtual: VirtualRun) -> VirtualRun:
    assert virtual.run()
    assert not judge(virtual, "")
    return virtual


def chain(virtual: VirtualRun) -> bytes:
    data = virtual.bucket.get(keys.MODEL)
    assert data is not None
    return data


def test_who_restarts_in_a_run_of_sixteen_workers_holds_no_more_than_its_window(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window, "WINDOW_BYTES", 64 * MB)
    behind: list[int] = []
    add = Backlog.add

    def watched(self: Backlog, *arguments: Any) -> None:
        add(self, *arguments)
        if self._shared.name == "f15.1":
            behind.append(self._shared.unapplied)

    monkeypatch.setattr(Backlog, "add", watched)

    def fault_plan(virtual: VirtualRun, name: str, index: int) -> FaultPlan:
        return FaultPlan(lifetime_s=5.0) if name == "f15.0" else FaultPlan()

    settings = settings_for("bsp", 16, 14).model_copy(update={"snapshot_every": 10**6})
    costs = Costs(step_s=0.02, apply_s=0.5, update_bytes=MB)
    assert VirtualRun(settings, 16, costs, Channel.parse("5ms"), Platform.parse("local"), fault_plan=fault_plan).run()
    assert max(behind) > 2, "it was never behind"
    assert not held.over
    assert max(held.most.values()) > 32 * MB


@pytest.mark.parametrize("functions", [1, 2, 4])
@pytest.mark.parametrize("schedule", ["bsp", "ssp:1", "asp", "quorum:2"])
def test_updates_that_do_not_fit_are_added_one_by_one_and_the_sums_are_the_same(
    schedule: str, functions: int, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window, "WINDOW_BYTES", 10)
    options: dict[str, Any] = {
        "functions": functions,
        "kind": VirtualRun,
        "costs": {"update_bytes": MB, "apply_s": 0.01},
    }
    virtual = ended(scene(schedule, 4, 20, **options))
    assert not held.over
    assert max(held.most.values()) < 2.01 * MB
    if schedule == "bsp":
        monkeypatch.setattr(window, "WINDOW_BYTES", 256 * MB)
        assert chain(virtual) == chain(ended(scene(schedule, 4, 20, **options)))


def test_two_workers_of_two_functions_read_no_large_update_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window, "WINDOW_BYTES", 10)
    virtual = ended(scene("bsp", 2, 20, kind=VirtualRun, costs={"update_bytes": MB}))
    for life in virtual.lives:
        assert life.world.store.meter.snapshot().bytes_received < 22 * MB


@pytest.mark.parametrize("seed", range(60))
def test_a_tight_window_breaks_no_promise_whatever_happens(
    seed: int, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window, "WINDOW_BYTES", 10)
    virtual, end = play(FaultScenario.draw(seed))
    assert not judge(virtual, end)
    assert not held.over


def _plain(schedule: str) -> str:
    return "groups:2" if schedule.startswith("groups") else schedule


def test_every_schedule_is_tried_with_a_tight_window() -> None:
    drawn = {_plain(FaultScenario.draw(seed).schedule) for seed in range(60)}
    cohorts = {schedule for schedule in drawn if schedule.startswith("cohort:")}
    assert cohorts and drawn - cohorts == set(SCHEDULES_TRIED) - {"cohort:2"}


def test_a_window_that_never_gives_room_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests above can fail: without the update that is needed next going first, a run waits for ever."""
    monkeypatch.setattr(window, "WINDOW_BYTES", 10)
    monkeypatch.setattr(Window, "can_fit", lambda *_: False)
    with pytest.raises(RunFailed, match="nothing happened"):
        scene("bsp", 4, 20, functions=1, kind=VirtualRun, costs={"update_bytes": MB}).run()


def test_only_as_many_rounds_are_read_ahead_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    virtual = scene("bsp", 4, 20, kind=VirtualRun, costs={"update_bytes": MB})
    virtual.run()
    life = virtual.lives[0]
    exchange = gather.GatherExchange(Shared(life.world, virtual.settings, life.machine, "f", ()))
    for limit_bytes, rounds in ((64 * MB, gather.LOOKAHEAD), (13 * MB, 3), (2 * MB, 1)):
        monkeypatch.setattr(window, "WINDOW_BYTES", limit_bytes)
        assert exchange._ahead() == rounds


# ---- The window alone.


def update(worker: int, seq: int) -> Update:
    return light(worker, seq)


def test_what_is_reserved_held_and_freed_adds_up() -> None:
    one = Window(5)
    one.reserve((0, 0))
    assert one.held_bytes == 5
    first = update(0, 0)
    one.hold(first, 7)
    assert (one.held_bytes, one.update_bytes) == (7, 7)
    one.reserve((1, 0))
    one.release((1, 0))
    one.release((1, 0))
    assert one.held_bytes == 7
    one.decide(first, (0, 0))
    one.free(first)
    one.free(first)
    assert one.held_bytes == 0 and not first.loaded and not first.body


def test_undecided_updates_make_room_those_of_the_latest_turn_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window, "WINDOW_BYTES", 30)
    one, held = Window(10), [update(1, 0), update(0, 1), update(0, 0)]
    for each in held:
        one.hold(each, 10)
    assert not one.fits() and one.fits(over=True)
    one.reserve((2, 0))
    assert [each.loaded for each in held] == [True, False, True]


def test_what_is_applied_next_takes_the_place_of_what_is_applied_later_but_not_of_what_is_sooner(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(window, "WINDOW_BYTES", 30)
    one, held = Window(10), [update(0, 0), update(2, 0), update(0, 1)]
    for each, place in zip(held, [(0, 0), (0, 2), (1, 0)], strict=True):
        one.hold(each, 10, place)
    assert not one.fits(over=True)
    assert not one.can_fit((0, 1), None) and not one.can_fit((0, 1), (0, 0))
    assert one.can_fit((0, 1), (0, 1))
    assert one.make_room((0, 1)) == [((1, 0), (0, 1))]
    assert [each.loaded for each in held] == [True, True, False]


def test_what_else_takes_memory_is_waited_for() -> None:
    claimed = [0]
    one = Window(10, lambda: claimed[0])
    assert one.fits()
    claimed[0] = 300 * MB
    assert not one.fits(over=True)


def test_the_most_that_updates_take() -> None:
    assert most_bytes(MB) == 256 * MB
    assert most_bytes(800 * MB) == 1600 * MB
    assert most_bytes(MB, updates=64) == 64 * MB


def test_a_function_forgets_what_it_spawned_when_that_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[tuple[int, int]] = []
    end = Function._end

    async def watched(self: Function) -> None:
        kept.append((self._shared.known.commit, len(self._shared.tasks._running)))
        await end(self)

    monkeypatch.setattr(Function, "_end", watched)
    for steps in (20, 80):
        scene("asp", 4, steps, kind=VirtualRun, channel="5ms").run()
    commits, running = zip(*kept, strict=True)
    assert max(commits) > 60
    assert max(running) < 20
