"""The virtual world: its store and clock, and runs of the real protocol in it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import lambdaml
from lambdaml.errors import SettingsError
from lambdaml.simulation import Costs, simulate
from lambdaml.simulation.channel import Channel
from lambdaml.simulation.kernel import Kernel
from lambdaml.simulation.virtual import Bucket, VirtualWorld
from lambdaml.storage.errors import Throttled
from lambdaml.traces import Trace

JOB = f"{Path(__file__).parents[1] / 'lab.py'}:Tiny"
FAST: dict[str, Any] = {"channel": "5ms", "platform": "local", "costs": Costs(step_s=0.05)}


def in_world(
    play: Callable[[VirtualWorld], Coroutine[Any, Any, Any]], channel: str = "40ms", **options: Any
) -> tuple[Any, VirtualWorld]:
    """What a coroutine returns in a world of its own."""
    kernel = Kernel()
    bucket = Bucket(kernel, Channel.parse(channel), options.pop("payloads", None), options.pop("injector", None))
    world = VirtualWorld(kernel.group("f"), bucket, **options)
    task = world.group.spawn(play(world))
    kernel.run()
    assert task.result.done
    if task.result._error is not None:
        raise task.result._error
    return task.result._value, world


def test_requests_take_their_latency_and_their_bytes() -> None:
    async def play(world: VirtualWorld) -> list[float]:
        moments = [world.now()]
        await world.store.put("updates/1", b"x" * 1_000_000)
        moments.append(world.now())
        assert await world.store.get("updates/1") == b"x" * 1_000_000
        moments.append(world.now())
        assert await world.store.get("nothing") is None
        moments.append(world.now())
        return [round(after - before, 6) for before, after in pairwise(moments)]

    took, world = in_world(play, "40ms:bandwidth=10MB/s")
    assert took == [0.14, 0.14, 0.04]
    assert world.store.reading()["requests"] == {"put": 1, "get": 1, "get_miss": 1}
    assert (world.store.reading()["bytes_sent"], world.store.reading()["bytes_received"]) == (10**6, 10**6)


def test_a_write_takes_effect_after_its_transfer_and_half_of_its_latency() -> None:
    async def play(world: VirtualWorld) -> list[bool]:
        async def look(at_s: float) -> bool:
            await world.sleep(at_s)
            return await world.store.get("k") is not None

        async def write() -> bool:
            return await world.store.create("k", b"v" * 100_000) is None

        return await world.gather(write(), look(0.009), look(0.011))

    assert in_world(play, "40ms:bandwidth=10MB/s")[0] == [True, False, True]


def test_connections_of_a_function_share_its_network() -> None:
    async def play(world: VirtualWorld) -> float:
        await world.gather(*[world.store.put(f"k{number}", b"x" * 10**6) for number in range(4)])
        return round(world.now(), 6)

    assert in_world(play, "40ms:bandwidth=10MB/s", bytes_per_s=20e6)[0] == 0.24
    assert in_world(play, "40ms:bandwidth=10MB/s")[0] == 0.14


def test_a_store_that_is_asked_too_much_says_slow_down_and_is_asked_again() -> None:
    async def play(world: VirtualWorld) -> None:
        await world.gather(*[world.store.get(f"k{number}") for number in range(40)])

    _, world = in_world(play, "40ms:reads_per_s=20")
    reading = world.store.reading()
    assert reading["requests"]["get_miss"] == 40
    assert reading["errors"]["get/Throttled"] >= 10


class Always:
    """The same fault for every write."""

    def __init__(self, fault: str, times: int = 10**9) -> None:
        self.fault, self.left = fault, times

    def strike(self, op: str, key: str, now: float, uniform: Callable[[], float]) -> str:
        self.left -= op == "create"
        return self.fault if op == "create" and self.left >= 0 else ""


def test_an_answer_that_was_lost_is_settled_by_reading_back() -> None:
    async def play(world: VirtualWorld) -> Any:
        return await world.store.create("k", b"mine")

    for fault in ("lost", "timeout", "twice"):
        standing, world = in_world(play, injector=Always(fault))
        assert standing is None
        assert world.store._bucket.overwritten == []


def test_a_put_that_lands_late_changes_nothing_that_stands() -> None:
    async def play(world: VirtualWorld) -> Any:
        first = await world.store.create("k", b"mine")
        await world.sleep(120.0)
        return first, await world.store.get("k")

    (first, after), world = in_world(play, injector=Always("late", times=1))
    assert (first, after) == (None, b"mine")
    assert world.store._bucket.overwritten == []


def test_a_store_that_never_answers_is_given_up_in_the_end() -> None:
    async def play(world: VirtualWorld) -> Any:
        return await world.store.create("k", b"mine")

    with pytest.raises(Throttled):
        in_world(play, injector=Always("slowdown"))


def test_compute_runs_one_piece_at_a_time_and_the_clock_runs_on_within() -> None:
    async def play(world: VirtualWorld) -> list[tuple[float, float]]:
        def work() -> tuple[float, float]:
            start = world.now()
            world.charge(1.0)
            return start, world.now()

        return await world.gather(*[world.compute(work) for _ in range(3)])

    assert in_world(play)[0] == [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0)]
    assert in_world(play, slowness=lambda: 2.0)[0][-1] == (4.0, 6.0)


def test_clocks_may_be_off_and_drift() -> None:
    async def play(world: VirtualWorld) -> float:
        await world.sleep(10.0)
        return world.now()

    assert in_world(play, skew_s=500.0, drift=0.01)[0] == pytest.approx(510.1)


# ---- Runs


def test_requests_of_a_synchronous_round() -> None:
    """N puts and N(N-1) gets of updates and one put of the log; looks that find nothing stay below one in two."""
    workers, steps = 4, 60
    short, long = (
        simulate(workers=workers, schedule="bsp", steps=count, snapshot_every=10**6, **FAST)
        for count in (steps, 2 * steps)
    )
    more = {kind: long.run.requests[kind] - short.run.requests[kind] for kind in ("create", "get", "list", "head")}
    assert more.pop("get") == pytest.approx(steps * workers * (workers - 1), rel=0.01)  # and stop.json, once a second
    assert more.pop("head") <= 1 + steps * 0.1 / 5  # run.json, every fifth second
    assert more == {"create": steps * (workers + 1), "list": 0}
    misses = long.run.requests["get_miss"] - short.run.requests["get_miss"]
    assert misses <= 0.5 * steps * workers * (workers - 1) + steps


def test_a_simulation_is_the_same_every_time() -> None:
    def once(seed: int) -> dict[str, Any]:
        result = simulate(workers=3, schedule="asp", updates=60, seed=seed, **{**FAST, "channel": "s3-express"})
        return {**result.to_dict()["modelled"], **result.run.to_dict(), "wall_s": 0}

    assert once(1) == once(1)
    assert once(1)["function_seconds"] != once(2)["function_seconds"]


@pytest.mark.parametrize("schedule", ["bsp", "quorum:3"])
def test_real_gradients_at_modelled_times_give_the_bits_of_a_live_run(schedule: str) -> None:
    options: dict[str, Any] = {"workers": 3, "steps": 8, "schedule": schedule}
    live = lambdaml.train(JOB, "memory://live-" + schedule.replace(":", ""), **options)
    found: list[Trace] = []
    simulated = simulate(JOB, real=True, trace=found.append, **options, **FAST)
    assert simulated.run.model_sha256 == live.model_sha256
    assert simulated.run.metrics == live.metrics
    assert found[0].meta["source"] == "simulated"


def test_an_asynchronous_simulation_can_be_replayed_to_the_same_bits() -> None:
    found: list[Trace] = []
    result = simulate(JOB, real=True, schedule="asp", workers=3, steps=8, trace=found.append, **FAST)
    replay = lambdaml.replay_trace(found[0])
    assert replay.metrics[replay.version] == result.run.metrics


def test_preempted_functions_are_replaced() -> None:
    result = simulate(workers=4, steps=40, schedule="asp", channel="5ms", platform="spot:30,5", costs=Costs(step_s=1.0))
    assert result.invocations > 8
    assert result.run.fates == {"applied": 160, "discarded": 0, "rejected": 0}


def test_functions_leave_before_their_time_is_up() -> None:
    result = simulate(
        workers=2, steps=40, schedule="bsp", channel="5ms", platform="local:20", costs=Costs(step_s=1.0), lease_s=1000.0
    )
    assert result.invocations >= 4  # had one been killed, its lease would have held up the run for 1,000 s
    assert result.run.seconds < 200


def test_a_slow_store_costs_time() -> None:
    fast, slow = (
        simulate(workers=4, updates=200, channel=name, platform="lambda-arm") for name in ("redis", "s3-standard")
    )
    assert fast.run.seconds < slow.run.seconds
    assert fast.function_seconds < slow.function_seconds == pytest.approx(sum(slow.lifetimes_s), abs=1e-3)


def test_the_split_of_staleness_adds_up() -> None:
    result = simulate(workers=6, updates=300, schedule="asp", **FAST)
    assert result.split is not None
    whole = result.split.storage + result.split.compute + result.split.wait
    assert whole == pytest.approx(result.run.staleness.mean, rel=1e-6)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"updates": 0}, "at least one update"),
        ({"updates": 5, "steps": 5}, "either"),
        ({"functions": 9, "workers": 8}, "functions"),
        ({"real": True}, "need a job"),
        ({"schedule": "quorum:9", "workers": 8}, "waits for more"),
        ({"channel": "s3-standart"}, "did you mean"),
    ],
)
def test_mistakes_are_told(options: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        simulate(**options)
