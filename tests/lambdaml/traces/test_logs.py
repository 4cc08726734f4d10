"""A run's logs: what its job printed, for whom, and why functions failed."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import lambdaml
from lambdaml.errors import JobFailed, SettingsError
from lambdaml.log import keys
from lambdaml.storage import Meter, open_store
from lambdaml.traces.logs import LOOK_PACE_S, LogLine, follow_logs, run_logs
from lambdaml.training.sampling import sampler_without_data
from tests.lambdaml.lab import Tiny, broken_off
from tests.lambdaml.traces.talkative import Talkative

JOB = f"{Path(__file__).parent / 'talkative.py'}:Talkative"


def place(engine: str, folder: Path) -> str:
    return f"file://{folder}/run" if engine == "local" else f"memory://{secrets.token_hex(6)}"


def train(url: str, engine: str = "inline", workers: int = 4, **options: Any) -> lambdaml.Run:
    args = {name: options.pop(name) for name in ("quiet", "fails", "away") if name in options}
    options = {"functions": 2, "steps": 6, "snapshot_every": 3} | options
    return lambdaml.Run(lambdaml.train(JOB, url, engine=engine, workers=workers, args=args, **options).run)


@pytest.mark.parametrize("engine", ["inline", "local"])
@pytest.mark.parametrize("schedule", ["bsp", "asp"])
def test_each_line_has_the_worker_and_the_update_for_which_it_was_printed(
    engine: str, schedule: str, tmp_path: Path
) -> None:
    run = train(place(engine, tmp_path), engine, schedule=schedule)
    lines, sampler = run_logs(run), sampler_without_data(run.settings)
    said = {(line.worker, line.seq): line.text for line in lines if line.text.startswith("samples ")}
    assert said == {
        (worker, seq): f"samples {' '.join(map(str, sorted(sampler.indices(worker, seq).tolist())))}"
        for worker, seq in said
    }
    applied = {(row["worker"], row["seq"]) for row in run.trace()}
    assert applied <= said.keys() and len(applied) >= 24
    of = {line.worker: line.function for line in lines if line.worker is not None}
    assert len(set(of.values())) == 2 and of[0] == of[2] != of[1] == of[3]
    sources = {(line.source, line.level, line.text) for line in lines if line.worker == 3}
    assert {("stderr", "", "on stderr"), ("talkative", "WARNING", "logged")} < sources
    assert [line.run_s for line in lines] == sorted(line.run_s for line in lines)


def test_what_is_printed_for_no_worker_says_so_and_evaluations_are_among_it(tmp_path: Path) -> None:
    lines = run_logs(train(place("local", tmp_path), "local"))
    nobodys = [line for line in lines if line.worker is None]
    assert [line.text for line in nobodys].count("imported") == len({line.function for line in lines}) - 1 == 2
    assert [(line.version, line.text) for line in nobodys if line.function == "evaluate"] == [
        (3, "evaluated"),
        (6, "evaluated"),
    ]
    assert all(line.seconds >= 0 for line in lines)


def test_the_lines_of_one_worker_can_be_asked_for() -> None:
    run = train(place("inline", Path()))
    assert {line.worker for line in run.logs(worker=2)} == {2}
    with pytest.raises(SettingsError, match="there is no worker 4: the run has workers 0 to 3"):
        run.logs(worker=4)


def test_printing_takes_no_request_and_changes_no_bit() -> None:
    runs = [train(place("inline", Path()), functions=1, quiet=quiet) for quiet in (True, False)]
    quiet, talkative = (run.requests() for run in runs)
    assert talkative.requests == quiet.requests
    assert (len(run_logs(runs[0])), len(run_logs(runs[1])) > 72) == (0, True)
    assert [run.store.get(keys.MODEL) for run in runs].count(runs[0].store.get(keys.MODEL)) == 2


@pytest.mark.parametrize("engine", ["inline", "local"])
def test_a_crash_stands_in_the_logs_with_the_jobs_own_lines(engine: str, tmp_path: Path) -> None:
    url = place(engine, tmp_path)
    with pytest.raises(JobFailed):
        train(url, engine, fails=13)
    errors = [line for line in run_logs(lambdaml.Run(url)) if line.source == "error"]
    assert errors
    for line in errors:
        assert line.text.startswith(f"update {line.seq} of worker {line.worker} (samples ")
        assert "Talkative.loss raised ValueError: no sample 13" in line.text
        (frame,) = line.frames
        assert frame.endswith('in loss: raise ValueError(f"no sample {self.fails}")')


def test_an_error_before_a_function_has_begun_to_work_stands_in_the_logs(tmp_path: Path) -> None:
    url = place("local", tmp_path)
    with pytest.raises(JobFailed):
        train(url, "local", away=True)
    texts = [line.text for line in run_logs(lambdaml.Run(url))]
    assert "imported" in texts
    assert any("dataset raised FileNotFoundError: numbers.csv is not here" in text for text in texts)


KILLED = """
import sys
import lambdaml
from lambdaml.worker import tracing
tracing.FLUSH_S = 0.2
lambdaml.train(sys.argv[1], sys.argv[2], engine="inline", functions=1, steps=100_000, args={"seconds": 0.02})
"""


def test_a_function_that_is_killed_loses_at_most_what_it_had_not_written(tmp_path: Path) -> None:
    url = place("local", tmp_path)
    command = [sys.executable, "-c", KILLED, JOB, url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    printed: list[str] = []
    written = 0
    for line in process.stdout:
        printed.append(line.rstrip("\n"))
        if line.startswith("samples "):
            parts = len(list((tmp_path / "run" / "trace").rglob("*.jsonl")))
            written = written or (parts > 1 and len(printed) - 1)
            if parts > 2:
                break
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    found = [line.text for line in run_logs(lambdaml.Run(url)) if line.source == "stdout" and line.worker is not None]
    printed = [line for line in printed if line.startswith("samples ")]
    assert 0 < written - 5 < len(found)
    assert found[: len(printed)] == printed[: len(found)]


class Clock:
    """A clock that a follower waits on: `then` happens in its first wait."""

    def __init__(self, then: Any = lambda: None) -> None:
        self.waited_s = 0.0
        self._then = iter([then])

    def sleep(self, seconds: float) -> None:
        self.waited_s += seconds
        next(self._then, lambda: None)()


def interrupted() -> lambdaml.Run:
    return broken_off(Talkative(), at=2, workers=2, functions=1, steps=6, snapshot_every=2)


def texts(lines: Iterator[LogLine]) -> list[str]:
    return [line.text for line in lines if line.source == "stdout" and line.worker is not None]


def test_a_follower_gets_each_line_once_and_ends_with_the_run() -> None:
    run = interrupted()
    clock = Clock(lambda: lambdaml.resume(run.store, job=Talkative()))
    found = texts(follow_logs(run, sleep=clock.sleep))
    assert len(found) >= 6
    assert found == texts(iter(run_logs(run)))
    assert clock.waited_s < 60


def test_a_follower_of_a_run_that_nobody_works_on_ends() -> None:
    clock = Clock()
    list(follow_logs(interrupted(), sleep=clock.sleep))
    assert 30 <= clock.waited_s < 60


def test_a_follower_makes_one_request_in_two_seconds() -> None:
    meter, url = Meter(), place("inline", Path())
    train(url).store.delete([keys.MODEL])
    watched = lambdaml.Run(open_store(url, meter))
    made: list[tuple[float, int]] = []

    def sleep(seconds: float) -> None:
        made.append((seconds, meter.snapshot().total))
        if len(made) == 4:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        list(follow_logs(watched, sleep=sleep))
    waits_s, totals = zip(*made, strict=True)
    assert [total - before for before, total in pairwise(totals)] == [wait_s / LOOK_PACE_S for wait_s in waits_s[1:]]


def test_a_run_of_a_job_that_prints_nothing_has_no_lines() -> None:
    run = lambdaml.Run(lambdaml.train(Tiny, f"memory://{secrets.token_hex(6)}", steps=2).run)
    assert run_logs(run) == []
