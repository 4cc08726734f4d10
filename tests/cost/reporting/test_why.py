"""`lambdaml.why`: the thing that was made slow is named, with about the gain that mending it really brings."""

from __future__ import annotations

from typing import Any

import pytest

import lambdaml
from lambdaml.cost.reporting.levers import BYTES, COMPUTE, STARTS, STORE, WORKER
from lambdaml.errors import UserError
from lambdaml.log import keys
from lambdaml.log.reader import RunReader
from lambdaml.log.trace_parts import pack_rows, unpack_rows
from lambdaml.simulation.platform import Platform
from lambdaml.storage import MemoryStore
from tests.cost.reporting.runs import recorded_run
from tests.lambdaml.simulation.scenes import settings_for

SLOW: dict[str, dict[str, Any]] = {
    STORE: {"channel": "80ms"},
    BYTES: {"channel": "5ms:bandwidth=1MB/s"},
    WORKER: {"stragglers": "slow:2,6"},
    COMPUTE: {"step_s": 1.0},
    STARTS: {"platform": Platform("cold", cold_start_s=(15.0, 15.0))},
}
"""The options that make one thing of a healthy run slow."""

HELPS = {STORE: "faster store", BYTES: "fewer bytes", WORKER: "no straggler", STARTS: "warm functions"}
"""What is the best that one can do about it."""


@pytest.mark.parametrize("schedule", ["bsp", "asp"])
@pytest.mark.parametrize("slow", SLOW)
def test_the_thing_that_was_made_slow_is_named(slow: str, schedule: str) -> None:
    found = lambdaml.why(recorded_run(schedule=schedule, **SLOW[slow]))
    assert found.causes[0].what == slow
    assert found.verdict.startswith(slow.capitalize())
    assert found.simulated_s == pytest.approx(found.seconds, rel=0.1)
    assert slow == COMPUTE or found.levers[0].what == HELPS[slow] or schedule == "asp"


def test_the_expected_gain_is_about_what_mending_really_brings() -> None:
    slow, mended = recorded_run(stragglers="slow:2,6"), recorded_run()
    found = lambdaml.why(slow)
    gain_s = found.seconds - lambdaml.why(mended).seconds
    worker = next(lever for lever in found.levers if lever.what == "no straggler")
    assert worker.gain_s == pytest.approx(gain_s, rel=0.1)
    assert worker.gain_share == pytest.approx(worker.gain_s / found.seconds)
    assert "worker 2 (steps 6.0 times as long as usual)" in worker.change


def test_a_load_in_the_first_step_counts_as_part_of_the_start() -> None:
    run = recorded_run()
    for info in list(run.store.list(keys.TRACE)):
        delay_first_step(run, info.key)
    assert lambdaml.why(run).causes[0].what == STARTS


def delay_first_step(run: RunReader, key: str) -> None:
    """Make the first update of each worker take 30 s more of compute, in its part of the trace."""
    data = run.store.get(key)
    assert data is not None
    rows = unpack_rows(data, key)
    for row in rows:
        if row["kind"] == "update" and row["seq"] == 0:
            row["compute_s"] += 30.0
    run.store.put(key, pack_rows(rows))


def test_the_shares_of_time_add_up_to_all_seconds_of_functions() -> None:
    run = recorded_run()
    found = lambdaml.why(run)
    assert sum(each.share for each in found.shares) == pytest.approx(1.0)
    assert sum(each.seconds for each in found.shares) == pytest.approx(sum(each.seconds for each in run.usage()))


def test_dollars_are_those_of_the_platform_and_store_that_are_asked_for() -> None:
    run = recorded_run(channel="80ms")
    free = lambdaml.why(run, platform="local")
    found = lambdaml.why(run, channel="s3-standard")
    assert free.usd == 0 and all(lever.gain_usd == 0 for lever in free.levers)
    assert found.usd == pytest.approx(sum(found.parts_usd.values()))
    assert 0 < found.causes[0].gain_usd < found.usd


def test_the_same_run_has_the_same_diagnosis() -> None:
    run = recorded_run(stragglers="lognormal:0.5")
    assert lambdaml.why(run) == lambdaml.why(run)


@pytest.mark.parametrize(
    "options",
    [
        {"schedule": "quorum:3"},
        {"schedule": "pipeline:1"},
        {"schedule": "groups:2", "algorithm": "local:1,sends=models"},
        {"pattern": "scatter", "bracket": None},
        {"algorithm": "local:2"},
        {"codec": "topk:0.1"},
        {"workers": 1},
    ],
)
def test_every_kind_of_run_can_be_explained(options: dict[str, Any]) -> None:
    found = lambdaml.why(recorded_run(**options))
    assert found.causes and found.simulated_s == pytest.approx(found.seconds, rel=0.3)


def test_a_run_of_many_functions_is_explained_in_closed_form() -> None:
    found = lambdaml.why(recorded_run(workers=12, steps=10, stragglers="slow:5,8"))
    assert found.causes[0].what == WORKER and "worker 5 " in found.causes[0].change


def test_a_run_that_has_measured_nothing_is_refused() -> None:
    settings = settings_for("bsp", 4, 10)
    store = MemoryStore.holding({keys.RUN: (settings.dump(), 0.0)}, "new")
    with pytest.raises(UserError, match="no measured update yet"):
        lambdaml.why(RunReader(store))
