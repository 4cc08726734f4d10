"""The selective barrier in the virtual world: others wait for a worker whose updates come late, and nobody waits for ever."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import lambdaml
from lambdaml.errors import SettingsError
from lambdaml.log import keys
from lambdaml.options import RunOptions
from lambdaml.parts import Parts
from lambdaml.simulation.channel import Channel
from lambdaml.simulation.engine import VirtualRun
from lambdaml.simulation.faults import try_seeds
from lambdaml.simulation.judge import judge
from lambdaml.simulation.platform import Platform
from lambdaml.simulation.stub_replica import Costs
from lambdaml.storage.backend import Op
from lambdaml.traces.attribution import trace_rows
from lambdaml.worker.barrier import Barrier
from tests.lambdaml.simulation.scenes import settings_for

WORKERS, STEPS, LATE, LATE_S = 4, 30, 3, 0.1


class SlowLink:
    """The updates of one worker take longer than those of the others: by 0.2 s at least."""

    def strike(self, op: Op, key: str, now: float, uniform: Callable[[], float]) -> str:
        late = op == "create" and key.startswith(keys.updates(LATE))
        return "slow" if late else ""


def played(announce_s: float | None, schedule: str = "ssp:30") -> VirtualRun:
    settings = settings_for(schedule, WORKERS, STEPS, announce_s=announce_s)
    virtual = VirtualRun(
        settings,
        WORKERS,
        Costs(step_s=0.03, apply_s=0.001),
        Channel.parse("5ms"),
        Platform.parse("local"),
        injector=SlowLink(),
    )
    assert virtual.run()
    assert not judge(virtual, "")
    return virtual


def staleness(virtual: VirtualRun) -> list[int]:
    """The staleness of the late worker's updates, except for the first, which nobody could announce."""
    return [row["staleness"] for row in trace_rows(virtual.run_of()) if row["worker"] == LATE][1:]


def test_others_start_nothing_while_a_late_update_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the barrier the late worker's updates are applied to models that have moved on by half as much or less."""
    waits: list[tuple[int, float, float]] = []
    held = Barrier.held

    async def watched(self: Barrier, seq: int) -> bool:
        began, found = self._shared.world.now(), await held(self, seq)
        if found:
            waits.append((self._worker, began, self._shared.world.now()))
        return found

    monkeypatch.setattr(Barrier, "held", watched)
    free, bound = played(None), played(LATE_S)
    standing = {info.key for info in bound.bucket.list(keys.ANNOUNCED)}
    announced = standing | {gone.key for gone in bound.bucket.deleted if gone.key.startswith(keys.ANNOUNCED)}
    assert announced == {keys.announcement(LATE, seq) for seq in range(1, STEPS)}, "each but the first, one put more"
    assert {worker for worker, _, _ in waits} == set(range(WORKERS)) - {LATE}
    print(f"staleness of the late worker: {staleness(free)}, with the barrier {staleness(bound)}")
    print(f"seconds {free.kernel.now:.1f}, with the barrier {bound.kernel.now:.1f}")
    assert max(staleness(bound)) <= max(staleness(free)) / 2
    assert standing <= {keys.announcement(LATE, STEPS - 1)}, "the run may end before the last one is withdrawn"


def test_who_is_never_late_announces_nothing_and_holds_nobody_back() -> None:
    free, bound = played(None), played(60.0)
    assert not [gone for gone in bound.bucket.deleted if gone.key.startswith(keys.ANNOUNCED)]
    assert max(staleness(bound)) > max(staleness(free)) / 2


def waits_for_others_although_it_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever takes over from a worker that died with its announcement waits for another such one."""

    async def held(self: Barrier, seq: int) -> bool:
        shared = self._shared
        if self._limit_s is None:
            return False
        due = list(enumerate(shared.queued.next_seq))
        found = await shared.world.store.get_many([keys.announcement(*each) for each in due])
        late = [each for each, data in zip(due, found, strict=True) if data is not None]
        await shared.until(lambda: shared.ending or all(shared.queued.next_seq[other] > at for other, at in late))
        return bool(late)

    monkeypatch.setattr(Barrier, "held", held)


def waits_until_the_announcement_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fates do not count, and whoever announced an update may have died before it deleted the announcement."""

    async def held(self: Barrier, seq: int) -> bool:
        shared, store = self._shared, self._shared.world.store
        names = [keys.announcement(*each) for each in enumerate(shared.queued.next_seq) if each[0] != self._worker]
        while self._limit_s is not None and any(await store.get_many(names)) and not shared.ending:
            await shared.world.sleep(0.5)
        return False

    monkeypatch.setattr(Barrier, "held", held)


@pytest.mark.parametrize("plant", [waits_for_others_although_it_is_waited_for, waits_until_the_announcement_is_gone])
def test_a_bug_planted_in_the_barrier_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    assert any(try_seeds(range(start, start + 10), "ssp:1") for start in range(0, 200, 10))


def test_functions_that_die_and_meet_wait_for_nobody_for_ever() -> None:
    for schedule in ("ssp:1", "ssp:3"):
        assert not try_seeds(range(150), schedule)


@pytest.mark.parametrize("schedule", ["bsp", "ssp:0", "asp", "quorum:2"])
def test_it_is_refused_where_there_is_no_lead(schedule: str) -> None:
    with pytest.raises(SettingsError, match="announce_s .* use ssp:S") as caught:
        Parts.of(RunOptions(schedule=schedule, announce_s=1.0))
    assert "\n" not in str(caught.value)


def test_a_simulation_knows_it_if_every_request_is_simulated() -> None:
    asked: dict[str, Any] = {"schedule": "ssp:2", "workers": 3, "updates": 30, "announce_s": 1e-6}
    found = lambdaml.simulate(**asked)
    free = lambdaml.simulate(**{**asked, "announce_s": None})
    assert found.run.requests["create"] >= free.run.requests["create"] + 3 * 9
    with pytest.raises(SettingsError, match="closed form"):
        lambdaml.simulate(exact=False, **asked)
