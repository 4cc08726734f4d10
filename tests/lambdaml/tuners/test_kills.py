"""Functions of a tuned run are killed with SIGKILL: it ends with the bits and the decisions of the undisturbed run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import lambdaml
from lambdaml.log import keys
from tests.lambdaml.lab import model_bytes
from tests.lambdaml.worker.test_kills import JOB, Killer, train

KILLS = 10
OPTIONS: dict[str, Any] = {
    "job": f"{JOB}Wide",
    "partition": "skew:1",
    "tune": "skewscout:every=2",
    "steps": 40,
    "snapshot_every": 5,
    "keep": "all",
}
GAIA = {"algorithm": "local:1,ahead=yes,outer=sum", "codec": "significant:0.05,decay=none"}
LOCAL_STEPS = {"algorithm": "local:9", "tune": "skewscout:every=2,span=4,factor=1.1"}


@pytest.mark.parametrize("knob", [GAIA, LOCAL_STEPS], ids=["threshold", "local steps"])
def test_a_tuned_run_is_killed_ten_times_and_ends_with_the_same_bits_and_decisions(
    tmp_path: Path, knob: dict[str, str]
) -> None:
    killer = Killer(KILLS, seed=7)
    killed = train(f"file://{tmp_path}/run?latency=5ms", killer, functions=2, **OPTIONS | knob)
    assert killer.done == KILLS
    alone = train(f"memory://{tmp_path.name}", functions=1, **OPTIONS | knob)
    assert killed.model_sha256 == alone.model_sha256
    run, other = lambdaml.Run(f"file://{tmp_path}/run"), lambdaml.Run(f"memory://{tmp_path.name}")
    assert [(c.tuned, c.controls) for c in run.log()] == [(c.tuned, c.controls) for c in other.log()]
    assert sum(len(commit.controls) for commit in run.log()) > 3
    travelled = {info.key: bytes(run.store.get(info.key) or b"") for info in run.store.list(keys.TRAVEL)}
    assert len(travelled) == 20
    assert travelled == {key: bytes(other.store.get(key) or b"") for key in travelled}
    report = run.verify(deep=1)
    assert report.faults == [] and report.recomputed == 4 * 40
    assert run.replay(40).dump_model() == model_bytes(run)
