"""The discrete-event kernel."""

from __future__ import annotations

import pytest

from lambdaml.simulation.kernel import Cancelled, Future, Group, Kernel, Killed, Livelock, sleep


def test_time_jumps_from_event_to_event() -> None:
    kernel, log = Kernel(), []

    async def worker(name: str, seconds: float) -> None:
        for _ in range(2):
            await sleep(seconds)
            log.append((name, kernel.now))

    group = kernel.group("g")
    group.spawn(worker("slow", 3600.0))
    group.spawn(worker("fast", 1.5))
    kernel.run()
    assert log == [("fast", 1.5), ("fast", 3.0), ("slow", 3600.0), ("slow", 7200.0)]


def test_ties_are_broken_by_the_order_in_which_they_came_up() -> None:
    kernel, log = Kernel(), []

    async def worker(name: int) -> None:
        await sleep(1.0)
        log.append(name)

    group = kernel.group("g")
    for name in range(20):
        group.spawn(worker(name))
    kernel.run()
    assert log == list(range(20))


def test_a_run_stops_at_a_moment_and_goes_on() -> None:
    kernel, log = Kernel(), []

    async def ticks() -> None:
        while True:
            await sleep(1.0)
            log.append(kernel.now)

    kernel.group("g").spawn(ticks())
    kernel.run(until=2.5)
    assert (kernel.now, log) == (2.5, [1.0, 2.0])
    kernel.run(done=lambda: len(log) == 4)
    assert kernel.now == 4.0


def test_gather_gives_results_in_order_and_raises_the_first_error() -> None:
    kernel = Kernel()
    group = kernel.group("g")

    async def after(seconds: float, fails: bool = False) -> float:
        await sleep(seconds)
        if fails:
            raise ValueError(f"after {seconds}")
        return seconds

    async def good() -> None:
        assert await kernel.gather(group, [after(3.0), after(1.0), after(2.0)]) == [3.0, 1.0, 2.0]
        assert kernel.now == 3.0

    async def bad() -> None:
        with pytest.raises(ValueError, match="after 1"):
            await kernel.gather(group, [after(0.5), after(1.0, fails=True), after(9.0, fails=True)])

    tasks = [group.spawn(good()), group.spawn(bad())]
    kernel.run()
    assert all(task.result.done and task.result._error is None for task in tasks)


def test_a_cancelled_task_ends_where_it_waits_and_cleans_up() -> None:
    kernel, log = Kernel(), []

    async def patient() -> None:
        try:
            await sleep(100.0)
        except Cancelled:
            log.append(("cancelled", kernel.now))
            await sleep(1.0)
            log.append(("cleaned", kernel.now))
            raise

    task = kernel.group("g").spawn(patient())
    kernel.at(2.0, task.cancel)
    kernel.run()
    assert log == [("cancelled", 2.0), ("cleaned", 3.0)]


def test_a_cancel_is_not_lost_when_what_is_waited_for_comes_at_the_same_moment() -> None:
    kernel, log = Kernel(), []
    future: Future[int] = Future(kernel)

    async def patient() -> None:
        try:
            log.append(await future.wait())
        except Cancelled:
            log.append(-1)

    task = kernel.group("g").spawn(patient())

    def both() -> None:
        task.cancel()
        future.set(7)

    kernel.at(1.0, both)
    kernel.run()
    assert log == [-1]


def test_a_killed_group_runs_no_further_and_leaves_others_alone() -> None:
    kernel, log = Kernel(), []
    doomed, other = kernel.group("doomed"), kernel.group("other")

    async def ticks(name: str) -> None:
        try:
            while True:
                await sleep(1.0)
                log.append((name, kernel.now))
        except Killed:
            log.append((name, -1.0))
            raise

    doomed.spawn(ticks("doomed"))
    other.spawn(ticks("other"))
    kernel.at(1.5, doomed.kill)
    kernel.run(until=3.0)
    assert log == [("doomed", 1.0), ("other", 1.0), ("doomed", -1.0), ("other", 2.0), ("other", 3.0)]


@pytest.mark.parametrize("turn", range(1, 6))
def test_a_group_can_be_killed_at_any_await(turn: int) -> None:
    kernel, log = Kernel(), []
    group = kernel.group("g")
    group.last_turn = turn

    async def steps() -> None:
        for step in range(1, 6):
            log.append(step)
            await sleep(1.0)

    group.spawn(steps())
    kernel.run()
    assert log == list(range(1, turn + 1))
    assert group.dead


def test_a_frozen_group_misses_nothing() -> None:
    kernel, log = Kernel(), []
    group = kernel.group("g")

    async def ticks() -> None:
        for _ in range(3):
            await sleep(1.0)
            log.append(kernel.now)

    group.spawn(ticks())
    kernel.at(0.5, group.freeze)
    kernel.at(60.5, group.thaw)
    kernel.run()
    assert log == [60.5, 61.5, 62.5]


def test_each_group_has_a_random_stream_of_its_own() -> None:
    def draws(seed: int, name: str) -> list[float]:
        group: Group = Kernel(seed).group(name)
        return [group.random.random() for _ in range(3)]

    assert draws(1, "a") == draws(1, "a")
    assert draws(1, "a") != draws(1, "b") != draws(2, "b")
    assert draws(0, "f0.0")[0] == pytest.approx(0.98834939, abs=1e-8)  # on any machine


def test_tasks_that_never_wait_are_found() -> None:
    kernel = Kernel()

    async def busy() -> None:
        while True:
            await sleep(0)

    kernel.group("restless").spawn(busy())
    with pytest.raises(Livelock, match="restless"):
        kernel.run()
