"""Real processes, killed with SIGKILL: nothing committed is lost, nothing is applied twice, the bits are the same."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import lambdaml
from lambdaml.events import Event
from lambdaml.log import keys

LAB = Path(__file__).parents[1] / "lab.py"
JOB = f"{LAB}:Tiny"
WORKERS, STEPS, KILLS = 4, 60, 20
REMEMBERING: dict[str, dict[str, Any]] = {
    "local steps with a kept Adam": {"job": f"{JOB}Adam", "algorithm": "local:8,inner=keep"},
    "fragments of local steps": {"job": f"{JOB}Wide", "algorithm": "local:8,outer=nesterov,fragments=2"},
    "duals": {"job": f"{JOB}Adam", "algorithm": "admm:1,steps=8"},
    "error feedback": {"job": f"{JOB}Wide", "codec": "sparse"},
    "Gaia": {"job": f"{JOB}Wide", "algorithm": "local:4,ahead=yes,outer=sum", "codec": "significant:0.1"},
}
SLOW = "?latency=5ms"
"""So that the killer hears of each commit before many others are made."""


class Killer:
    """Kills a random function whenever the run has come a stretch further; the last four stretches are left in peace, so that
    the last kill strikes somebody even where it comes late."""

    def __init__(self, kills: int, seed: int) -> None:
        self.kills, self.done, self._random = kills, 0, random.Random(seed)
        self._alive: dict[str, int] = {}
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        with self._lock:
            if event.event == "started":
                self._alive[event.function] = event.pid
            elif event.event == "ended":
                self._alive.pop(event.function, None)
            elif event.event == "commit" and self._due(event.fraction) and self._alive:
                with suppress(ProcessLookupError):  # it has just left by itself
                    os.kill(self._alive.pop(self._random.choice(sorted(self._alive))), signal.SIGKILL)
                    self.done += 1

    def _due(self, fraction: float) -> bool:
        return self.done < self.kills and fraction * (self.kills + 4) > self.done + 1


def train(
    url: str, killer: Callable[[Event], None] | None = None, job: str = JOB, **options: Any
) -> lambdaml.TrainResult:
    options = {"workers": WORKERS, "steps": STEPS, "functions": 4, **options}
    return lambdaml.train(job, url, on_event=killer or (lambda event: None), **options)


@pytest.fixture(scope="module")
def undisturbed() -> str | None:
    return train("memory://undisturbed", functions=1).model_sha256


@pytest.mark.parametrize("functions", [1, 2, 4])
def test_a_bsp_run_that_is_killed_twenty_times_ends_with_the_same_bits(
    undisturbed: str, functions: int, tmp_path: Path
) -> None:
    killer = Killer(KILLS, seed=functions)
    result = train(f"file://{tmp_path}/run{SLOW}", killer, functions=functions)
    assert killer.done == KILLS
    assert result.model_sha256 == undisturbed
    assert result.fates == {"applied": WORKERS * STEPS, "discarded": 0, "rejected": 0}
    assert lambdaml.Run(f"file://{tmp_path}/run").verify().faults == []


@pytest.mark.parametrize("name", REMEMBERING)
def test_a_bsp_run_whose_workers_remember_is_killed_twenty_times_and_ends_with_the_same_bits(
    name: str, tmp_path: Path
) -> None:
    killer = Killer(KILLS, seed=3)
    told: list[Event] = []

    def watch(event: Event) -> None:
        told.append(event)
        killer(event)

    killed = train(f"file://{tmp_path}/run?latency=20ms", watch, functions=2, **REMEMBERING[name])
    assert killer.done == KILLS
    alone = train(f"memory://{tmp_path.name}", functions=1, **REMEMBERING[name])
    assert killed.model_sha256 == alone.model_sha256
    assert killed.fates == {"applied": WORKERS * STEPS, "discarded": 0, "rejected": 0}
    assert sum(event.updates for event in told if event.event == "remembered") > KILLS, "memories were recovered"
    assert lambdaml.Run(f"file://{tmp_path}/run").verify().faults == []


def test_gaia_with_a_lead_is_killed_twenty_times_and_each_update_is_what_its_worker_had_to_send(tmp_path: Path) -> None:
    killer, options = Killer(KILLS, seed=19), {**REMEMBERING["Gaia"], "schedule": "ssp:2", "keep": "all"}
    result = train(f"file://{tmp_path}/run{SLOW}", killer, functions=2, **options)
    assert killer.done == KILLS
    assert result.fates == {"applied": WORKERS * STEPS, "discarded": 0, "rejected": 0}
    report = lambdaml.Run(f"file://{tmp_path}/run").verify(deep=1)
    assert report.faults == [] and report.recomputed == WORKERS * STEPS and not report.unchecked


@pytest.mark.parametrize("codec", ["fp32", "topk:0.1"])
def test_a_run_of_cohorts_is_killed_twenty_times_and_ends_with_the_same_bits(codec: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"schedule": "cohort:4", "workers": 9, "partition": "dirichlet:1", "codec": codec}
    options |= {"job": f"{JOB}Adam", "algorithm": "local:8,inner=keep", "keep": 16, "snapshot_every": 4}
    killer = Killer(KILLS, seed=7)
    killed = train(f"file://{tmp_path}/run?latency=20ms", killer, functions=2, **options)
    assert killer.done == KILLS
    alone = train(f"memory://{tmp_path.name}", functions=1, **options)
    assert killed.model_sha256 == alone.model_sha256
    run = lambdaml.Run(f"file://{tmp_path}/run")
    assert run.verify(deep=1).faults == []
    assert len(list(run.store.list(keys.MEMORY))) < 4 * (16 + 8) + 9, (
        "the newest of each worker, and those of the rounds kept"
    )


def test_a_run_of_statistics_is_killed_twenty_times_and_ends_with_the_same_bits(tmp_path: Path) -> None:
    killer, options = Killer(KILLS, seed=13), {"job": f"{LAB}:ClassMeans", "algorithm": "statistics"}
    killed = train(f"file://{tmp_path}/run{SLOW}", killer, **options)
    assert killer.done == KILLS
    assert killed.model_sha256 == train(f"memory://{tmp_path.name}", functions=1, **options).model_sha256
    assert killed.fates == {"applied": WORKERS * STEPS, "discarded": 0, "rejected": 0}
    assert lambdaml.Run(f"file://{tmp_path}/run").verify().faults == []


@pytest.mark.parametrize("pattern", ["tree:2", "scatter"])
def test_whoever_adds_up_for_the_others_is_killed_and_the_bits_are_the_same(pattern: str, tmp_path: Path) -> None:
    killer = Killer(KILLS, seed=11)
    result = train(f"file://{tmp_path}/run{SLOW}", killer, pattern=pattern)
    assert killer.done == KILLS
    bracket = "2^2" if pattern == "tree:2" else "flat"
    assert result.model_sha256 == train(f"memory://{tmp_path.name}", functions=1, bracket=bracket).model_sha256
    assert result.fates == {"applied": WORKERS * STEPS, "discarded": 0, "rejected": 0}
    assert lambdaml.Run(f"file://{tmp_path}/run").verify().faults == []


def test_functions_are_killed_while_they_exchange_updates_in_many_objects(tmp_path: Path) -> None:
    killer, options = Killer(2, seed=5), {"job": f"{JOB}Large", "workers": 2, "steps": 4}
    result = train(f"file://{tmp_path}/run", killer, functions=2, pattern="scatter:5", **options)
    assert killer.done == 2
    run = lambdaml.Run(f"file://{tmp_path}/run")
    assert len(list(run.store.list(keys.BLOCKS))) == 4 * 2 * 5
    assert run.verify().faults == []
    assert result.model_sha256 == train(f"memory://{tmp_path.name}", functions=1, **options).model_sha256


@pytest.mark.parametrize(
    ("delay", "options"),
    [
        (1, {}),
        (2, {"pattern": "tree:2", "bracket": "2^2"}),
        (1, {"pattern": "scatter", "functions": 2}),
        (1, {"job": f"{JOB}Wide", "codec": "topk:0.1", "functions": 2, "recover_s": 0.05}),
    ],
    ids=["gather", "tree", "scatter", "error feedback"],
)
def test_a_run_whose_rounds_overlap_is_killed_and_ends_with_the_same_bits(
    delay: int, options: dict[str, Any], tmp_path: Path
) -> None:
    killer, schedule = Killer(KILLS, seed=17), f"pipeline:{delay}"
    result = train(f"file://{tmp_path}/run{SLOW}", killer, schedule=schedule, **options)
    assert killer.done == KILLS
    alone = train(f"memory://{tmp_path.name}", schedule=schedule, **{**options, "functions": 1})
    assert result.model_sha256 == alone.model_sha256
    assert result.fates == {"applied": WORKERS * STEPS, "discarded": 0, "rejected": 0}
    assert lambdaml.Run(f"file://{tmp_path}/run").verify().faults == []


def test_s3_gives_the_bits_of_memory(undisturbed: str) -> None:
    killer = Killer(2, seed=0)
    assert train("moto://bucket/run", killer, functions=2).model_sha256 == undisturbed
    assert killer.done == 2


@pytest.mark.parametrize(("schedule", "pattern"), [("asp", "gather"), ("ssp:2", "gather"), ("asp", "fold")])
def test_an_asynchronous_run_that_is_killed_loses_and_doubles_nothing(
    schedule: str, pattern: str, tmp_path: Path
) -> None:
    killer = Killer(KILLS, seed=7)
    result = train(f"file://{tmp_path}/run{SLOW}", killer, schedule=schedule, pattern=pattern)
    assert killer.done == KILLS
    assert result.fates == {"applied": WORKERS * STEPS, "discarded": 0, "rejected": 0}
    report = lambdaml.Run(f"file://{tmp_path}/run").verify()
    assert report.faults == [] and report.pending == 0


@pytest.mark.parametrize(("job", "functions"), [("Tiny", 2), ("TinyAdam", 4)])
def test_a_run_of_groups_is_killed_twenty_times_and_ends_with_the_same_bits(
    job: str, functions: int, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"job": f"{LAB}:{job}", "schedule": "groups:2,every=2", "workers": 8, "snapshot_every": 8}
    killer = Killer(KILLS, seed=17)
    killed = train(f"file://{tmp_path}/run?latency=20ms", killer, functions=functions, **options)
    assert killer.done == KILLS
    assert killed.model_sha256 == train(f"memory://{tmp_path.name}", functions=1, **options).model_sha256
    assert killed.fates == {"applied": 8 * STEPS, "discarded": 0, "rejected": 0}
    assert lambdaml.Run(f"file://{tmp_path}/run").verify(deep=0.3).faults == []
