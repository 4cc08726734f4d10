"""Runs that broke off, or whose result is missing, are gone on with and end with the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest

import lambdaml
from lambdaml.errors import JobError, RunNotFound
from lambdaml.log import keys
from tests.lambdaml.lab import Tiny, broken_off, memory, model_bytes, train

STEPS = 10


@pytest.fixture(scope="module")
def plain() -> lambdaml.Run:
    return train(workers=4, steps=STEPS)


@pytest.mark.parametrize("at", [0, 4, 8])
@pytest.mark.parametrize("functions", [1, 2])
def test_a_run_that_broke_off_ends_with_the_same_bits(plain: lambdaml.Run, at: int, functions: int) -> None:
    run = broken_off(at=at, workers=4, steps=STEPS, functions=functions)
    result = lambdaml.resume(run.store, functions=functions)
    assert result.stop == "steps"
    assert model_bytes(run) == model_bytes(plain)
    assert run.verify().faults == []


@pytest.mark.parametrize("missing", ["model", "model and last snapshot"])
def test_a_run_whose_log_ended_but_whose_result_was_not_written_is_finished(missing: str) -> None:
    """Killed between the last log entry and model.safetensors."""
    run = train(workers=2, steps=5, patience_s=5.0, lease_s=1.0)
    expected, log = model_bytes(run), [info.key for info in run.store.list(keys.LOG)]
    run.store.delete([keys.MODEL])
    if missing != "model":
        run.store.delete([keys.snapshot(5)])
    result = lambdaml.resume(run.store)
    assert (result.stop, result.version) == ("steps", 5)
    assert model_bytes(run) == expected
    assert [info.key for info in run.store.list(keys.LOG)] == log


def test_a_run_that_met_its_target_but_whose_result_was_not_written_is_finished() -> None:
    store = memory()
    first = lambdaml.train(Tiny, store.url, workers=2, target="accuracy>=0.8", snapshot_every=2, patience_s=5.0)
    run = lambdaml.Run(store)
    expected, log = model_bytes(run), [info.key for info in store.list(keys.LOG)]
    store.delete([keys.MODEL])
    again = lambdaml.resume(store.url)
    assert (again.stop, again.version) == ("target", first.version)
    assert model_bytes(run) == expected
    assert [info.key for info in store.list(keys.LOG)] == log


def test_a_run_that_has_ended_is_not_run_again(plain: lambdaml.Run) -> None:
    before = {info.key for info in plain.store.list()}
    result = lambdaml.resume(plain.store)
    assert (result.stop, result.version) == ("steps", STEPS)
    (new,) = {info.key for info in plain.store.list()} - before
    assert new.startswith("usage/launcher-"), "only what it cost to find out"


def test_a_run_that_broke_off_before_its_first_snapshot_is_begun(plain: lambdaml.Run) -> None:
    store = memory()
    store.create(keys.RUN, plain.settings.dump())
    lambdaml.resume(store.url)
    assert model_bytes(lambdaml.Run(store)) == model_bytes(plain)


def test_resuming_where_there_is_no_run_says_so() -> None:
    with pytest.raises(RunNotFound, match="no run at memory://"):
        lambdaml.resume(memory().url)


def test_a_job_whose_code_has_changed_is_not_gone_on_with(tmp_path: Path) -> None:
    file = tmp_path / "job.py"
    file.write_text("from tests.lambdaml.lab import Tiny\n\nclass Mine(Tiny):\n    pass\n")
    run = train(f"{file}:Mine", workers=2, steps=3)
    run.store.delete([keys.MODEL])
    file.write_text(file.read_text() + "# changed\n")
    with pytest.raises(JobError, match="has changed since the run was started"):
        lambdaml.resume(run.store)
