"""The fast simulation against the exact one, and what it costs in memory."""

from __future__ import annotations

import gc
import tracemalloc
from collections import Counter
from statistics import fmean

import pytest

from lambdaml.errors import SettingsError
from lambdaml.log.records import Commit
from lambdaml.log.summary import Staleness
from lambdaml.simulation.scenario import FlowResult
from tests.lambdaml.simulation.scenes import exact, fast, scene

TOLERANCE = 0.10


def off(fast_values: list[float], exact_values: list[float]) -> float:
    """By which share the means differ."""
    a, b = fmean(fast_values), fmean(exact_values)
    return abs(a - b) / b if b else a


def differences(schedule: str, workers: int, channel: str, step_s: float, steps: int, seeds: int) -> dict[str, float]:
    options = {"schedule": schedule, "workers": workers, "channel": channel, "step_s": step_s, "steps": steps}
    truth = [exact(**options, seed=seed) for seed in range(seeds)]
    found = [fast(**options, seed=seed) for seed in range(4 * seeds)]
    return {
        "time": off([run.seconds for run in found], [run.seconds for run in truth]),
        "staleness": off([run.staleness for run in found], [run.staleness for run in truth]),
        "requests": off([sum(run.requests.values()) for run in found], [sum(run.requests.values()) for run in truth]),
        "updates": off([run.updates for run in found], [run.updates for run in truth]),
        "received": off([run.received for run in found], [run.received for run in truth]),
    }


@pytest.mark.parametrize("schedule, workers, channel, step_s", [
    ("bsp", 4, "s3-express", 0.5),
    ("bsp", 8, "s3-standard", 0.05),
    ("asp", 4, "5ms", 0.5),
    ("asp", 8, "s3-standard", 0.2),
    ("ssp:2", 4, "s3-standard", 0.2),
    ("ssp:2", 4, "s3-express", 0.5),
    ("quorum:3", 4, "5ms", 0.2),
    ("quorum:6", 8, "s3-standard", 0.05),
])  # fmt: skip
def test_it_comes_to_what_the_exact_simulation_does(schedule: str, workers: int, channel: str, step_s: float) -> None:
    assert max(differences(schedule, workers, channel, step_s, steps=40, seeds=3).values()) < TOLERANCE


@pytest.mark.parametrize("schedule", ["bsp", "asp"])
def test_local_steps_come_to_what_the_exact_simulation_does(schedule: str) -> None:
    """The last update covers two batches; each worker writes its memory once or twice."""
    settings = {"algorithm": "local:4,outer=nesterov", "batches": 78, "recover_s": 3.0}
    options = {"schedule": schedule, "workers": 4, "channel": "5ms", "steps": 20, "settings": settings}
    options["costs"] = {"memory_bytes": 10_000, "encode_s": 0.01, "update_bytes": 1_000}
    truth = [exact(**options, seed=seed) for seed in range(2)]
    found = [fast(**options, seed=seed) for seed in range(4)]
    for value in ("busy_s", "seconds", "received"):
        ours, theirs = ([getattr(run, value) for run in runs] for runs in (found, truth))
        assert off(ours, theirs) < (0.01 if value == "busy_s" else TOLERANCE), value
    assert truth[0].busy_s > 4 * 78 * 0.1
    ours, theirs = ([sum(run.requests.values()) for run in runs] for runs in (found, truth))
    assert off(ours, theirs) < TOLERANCE
    assert [run.requests["create"] for run in found] == pytest.approx([truth[0].requests["create"]] * 4, rel=0.06)


def test_what_clocks_decide_has_no_closed_form() -> None:
    with pytest.raises(SettingsError, match="local:auto.*clocks"):
        scene("bsp", 4, 20, settings={"algorithm": "local:auto"})


@pytest.mark.soak
@pytest.mark.parametrize("step_s", [0.05, 0.5])
@pytest.mark.parametrize("channel", ["s3-standard", "s3-express", "5ms"])
@pytest.mark.parametrize("workers", [4, 8, 16])
@pytest.mark.parametrize("schedule", ["bsp", "asp", "ssp:2", "quorum"])
def test_it_does_so_everywhere(schedule: str, workers: int, channel: str, step_s: float) -> None:
    name = f"quorum:{3 * workers // 4}" if schedule == "quorum" else schedule
    assert max(differences(name, workers, channel, step_s, steps=60, seeds=6).values()) < TOLERANCE


@pytest.mark.parametrize("schedule", ["bsp", "asp"])
def test_workers_share_their_function_and_bytes_its_network(schedule: str) -> None:
    costs = {"encode_s": 0.01, "apply_s": 0.005, "apply_update_s": 0.005, "update_bytes": 2_000_000}
    options = {"schedule": schedule, "workers": 6, "functions": 3, "steps": 20, "costs": costs}
    options["platform"] = "lambdaml-2021"
    truth = [exact(**options, seed=seed) for seed in range(4)]
    found = [fast(**options, seed=seed) for seed in range(8)]
    assert off([run.busy_s for run in found], [run.busy_s for run in truth]) < 0.02
    assert off([run.seconds for run in found], [run.seconds for run in truth]) < TOLERANCE
    assert off([sum(run.requests.values()) for run in found], [sum(run.requests.values()) for run in truth]) < TOLERANCE


@pytest.mark.parametrize("schedule", ["bsp", "asp"])
def test_functions_hand_over_before_their_lifetime_ends(schedule: str) -> None:
    options = {"schedule": schedule, "workers": 4, "channel": "5ms", "steps": 20, "step_s": 0.5}
    plain, short = (fast(**options, platform=platform) for platform in ("local", "local:lifetime_s=6"))
    truth = exact(**options, platform="local:lifetime_s=6")
    assert short.requests["list"] > plain.requests["list"]
    assert off([short.seconds], [truth.seconds]) < 2 * TOLERANCE and short.seconds > plain.seconds
    assert off([sum(short.requests.values())], [sum(truth.requests.values())]) < 2 * TOLERANCE


def test_every_update_has_one_fate_and_the_callback_sees_them_all() -> None:
    for schedule in ("bsp", "asp", "ssp:1", "quorum:3"):
        seen: list[tuple[float, Commit]] = []
        run = scene(schedule, 4, 20, on_commit=lambda moment, commit: seen.append((moment, commit))).run()
        assert [commit.commit for _, commit in seen] == list(range(run.commits))
        assert [moment for moment, _ in seen] == sorted(moment for moment, _ in seen)
        entries = [entry for _, commit in seen for entry in commit.entries]
        assert len({(entry.worker, entry.seq) for entry in entries}) == len(entries) == run.updates
        assert Counter(entry.fate for entry in entries) == Counter(run.fates)
        assert Staleness.of([entry.staleness for _, commit in seen for entry in commit.applied]) == run.staleness
        assert seen[-1][1].stop is not None and seen[-1][1].last_version == run.version


def test_a_run_can_be_as_long_as_one_likes() -> None:
    for schedule in ("bsp", "asp", "quorum:3"):
        run = scene(schedule, 4, 1).run(updates=100)
        assert 100 <= run.updates < 108 and run.stop == "updates"


@pytest.mark.parametrize("schedule", ["bsp", "asp", "ssp:2", "quorum:12"])
def test_memory_does_not_grow_with_the_length_of_the_run(schedule: str) -> None:
    """An update that were kept would take some 300 bytes. Arrays that come and go make the peak vary by 100 KB."""

    def peak(updates: int) -> int:
        gc.collect()
        tracemalloc.start()
        try:
            scene(schedule, 16, 1).run(updates)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(200)
    assert peak(3000) < peak(1000) + 200_000


def test_the_same_seed_gives_the_same_run() -> None:
    def run(seed: int) -> FlowResult:
        return scene("asp", 8, 20, seed=seed).run()

    assert run(1) == run(1) != run(2)


@pytest.mark.parametrize("schedule, workers, channel", [
    ("bsp", 8, "5ms:writes_per_s=40"),
    ("bsp", 8, "5ms:reads_per_s=250"),
    ("asp", 8, "5ms:writes_per_s=60"),
    ("asp", 6, "5ms:reads_per_s=450"),
])  # fmt: skip
def test_limits_on_reads_and_writes_cost_what_they_do_in_the_exact_simulation(
    schedule: str, workers: int, channel: str
) -> None:
    options = {"schedule": schedule, "workers": workers, "channel": channel, "step_s": 0.05, "steps": 20}
    truth = [exact(**options, seed=seed) for seed in range(2)]
    found = [fast(**options, seed=seed) for seed in range(8)]
    free = fast(**{**options, "channel": "5ms"})
    assert fmean([run.seconds for run in truth]) > 1.2 * free.seconds
    assert off([run.seconds for run in found], [run.seconds for run in truth]) < 0.2
    assert off([sum(run.requests.values()) for run in found], [sum(run.requests.values()) for run in truth]) < 0.2
    refused, truly = (fmean([sum(run.errors.values()) for run in runs]) for runs in (found, truth))
    assert truly / 4 < refused < 2 * truly
    assert {kind for run in found for kind in run.errors} == {max(truth[0].errors, key=truth[0].errors.__getitem__)}
