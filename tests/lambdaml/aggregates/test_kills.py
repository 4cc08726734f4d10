"""Functions of a run with an aggregate are killed with SIGKILL: it ends with the bits of the undisturbed run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lambdaml
from tests.lambdaml.lab import model_bytes
from tests.lambdaml.worker.test_kills import Killer, train

KILLS = 8


def test_a_run_with_the_median_is_killed_eight_times_and_ends_with_the_same_bits(tmp_path: Path) -> None:
    options: dict[str, Any] = {"aggregate": "median", "steps": 30, "snapshot_every": 5, "keep": "all"}
    killer = Killer(KILLS, seed=5)
    killed = train(f"file://{tmp_path}/run?latency=5ms", killer, functions=2, **options)
    assert killer.done == KILLS
    assert killed.model_sha256 == train(f"memory://{tmp_path.name}", functions=1, **options).model_sha256
    assert killed.fates == {"applied": 4 * 30, "discarded": 0, "rejected": 0}
    run = lambdaml.Run(f"file://{tmp_path}/run")
    report = run.verify(deep=1)
    assert report.faults == [] and report.recomputed == 4 * 30
    assert run.replay(30).dump_model() == model_bytes(run)
