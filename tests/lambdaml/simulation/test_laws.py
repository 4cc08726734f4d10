"""Laws that hold whatever the numbers: for the fast simulation, and, with few functions, for the exact one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lambdaml.simulation.stragglers import STRAGGLERS
from tests.lambdaml.simulation.scenes import Outcome, exact, fast, scene

BOTH = pytest.mark.parametrize("simulate", [fast, exact])
Simulate = Callable[..., Outcome]


@BOTH
@pytest.mark.parametrize("workers", [1, 6])
def test_equal_asynchronous_workers_are_one_less_than_their_number_stale(simulate: Simulate, workers: int) -> None:
    """Between two updates of a worker lies one of each other, unless their steps keep one beat, from a common start
    on: then all arrive at once, and take their steps in one commit. A little chance breaks that."""
    options: dict[str, Any] = {"channel": "disk", "step_s": 1.0, "stragglers": STRAGGLERS.make("lognormal:0.1")}
    run = simulate(schedule="asp", workers=workers, steps=80, seed=1, **options)
    assert run.staleness == pytest.approx(workers - 1, rel=0.06)


@pytest.mark.parametrize("workers, channel", [(8, "disk"), (100, "5ms"), (1000, "s3-express")])
def test_steps_after_its_own_in_a_group_commit_are_not_counted(workers: int, channel: str) -> None:
    """A worker goes on from the commit that takes its update. So N - 1 is, however late updates are noticed, the mean
    of an update's staleness and the steps that follow its own in the same commit."""
    later: list[int] = []

    def look(moment: float, commit: Any) -> None:
        later.extend(range(len(commit.steps)))

    options: dict[str, Any] = {"stragglers": STRAGGLERS.make("lognormal:0.3"), "on_commit": look}
    run = scene("asp", workers, 1, channel=channel, step_s=0.5, **options).run(updates=20 * workers)
    assert run.staleness.mean + sum(later) / len(later) == pytest.approx(workers - 1, rel=0.04)


@pytest.mark.parametrize("schedule", ["bsp", "asp", "ssp:2", "quorum:6"])
def test_updates_in_flight_are_throughput_times_time_in_flight(schedule: str) -> None:
    """Little's law. What is in flight is counted where the run is looked at from outside: each worker's cycle is the
    flight of one update, and the pause until the next begins."""
    commits: list[tuple[float, int]] = []
    options: dict[str, Any] = {"channel": "5ms", "platform": "lambdaml-2021"}
    options["on_commit"] = lambda moment, commit: commits.append((moment, len(commit.entries)))
    run = scene(schedule, 8, 1, **options).run(updates=4000)
    (begin, _), (end, _) = commits[len(commits) // 10], commits[-1]
    per_s = sum(count for _, count in commits[len(commits) // 10 + 1 :]) / (end - begin)
    cycle_s = sum(run.cycle_s.values())
    if schedule == "quorum:6":  # updates overlap: one may wait for its fate while the next is computed
        assert 0.7 * 8 < per_s * run.flight_s < 2 * 8
    else:
        assert per_s * cycle_s == pytest.approx(8, rel=0.02)
        assert per_s * run.flight_s < 8.2


@BOTH
@pytest.mark.parametrize("channel", ["s3-standard", "5ms"])
def test_synchronous_updates_are_never_stale(simulate: Simulate, channel: str) -> None:
    assert simulate(schedule="bsp", workers=4, steps=20, channel=channel, seed=2).most_stale == 0


@BOTH
@pytest.mark.parametrize("s", [1, 3])
def test_nobody_leads_by_more_than_the_bound(simulate: Simulate, s: int) -> None:
    """While a worker computes, each other makes no more than 2s + 1 updates: from s behind to s ahead, and its own
    round. So much bounds the staleness; a worker three times slower than the others brings them to it."""
    slow: dict[str, Any] = {"stragglers": STRAGGLERS.make("slow:1,3")}
    run = simulate(schedule=f"ssp:{s}", workers=4, steps=30, channel="5ms", seed=3, **slow)
    free = simulate(schedule="asp", workers=4, steps=30, channel="5ms", seed=3, **slow)
    assert run.most_stale <= 3 * (2 * s + 1)
    assert s > 1 or run.most_stale < free.most_stale


def test_the_lead_in_the_log_stays_within_the_bound() -> None:
    made = [0] * 6
    leads: list[int] = []

    def look(moment: float, commit: Any) -> None:
        for entry in commit.entries:
            made[entry.worker] += 1
        leads.append(max(made) - min(made))

    scene("ssp:2", 6, 40, channel="s3-standard", stragglers=STRAGGLERS.make("slow:2,4"), on_commit=look).run()
    assert max(leads) == 3  # a worker with a lead of 2 may make one more


@BOTH
@pytest.mark.parametrize("schedule", ["bsp", "asp", "ssp:2", "quorum:3"])
def test_a_slower_store_only_lengthens_a_run(simulate: Simulate, schedule: str) -> None:
    times = [
        simulate(schedule=schedule, workers=4, steps=20, channel=channel, seed=4).seconds
        for channel in ("1ms", "10ms", "40ms", "200ms")
    ]
    assert times == sorted(times)


@pytest.mark.parametrize("schedule", ["bsp", "asp"])
def test_a_limit_on_reads_only_lengthens_a_run(schedule: str) -> None:
    times = [scene(schedule, 16, 10, channel=f"5ms:reads_per_s={rate}").run().seconds for rate in (10**6, 500, 100)]
    assert times == sorted(times) and times[2] > 16 * 15 * 10 / 100


@BOTH
def test_the_same_seed_gives_the_same_run(simulate: Simulate) -> None:
    options: dict[str, Any] = {"schedule": "asp", "workers": 4, "steps": 15, "channel": "s3-standard"}
    assert simulate(**options, seed=1) == simulate(**options, seed=1) != simulate(**options, seed=2)
