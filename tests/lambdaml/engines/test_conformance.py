"""What every engine must do. A new one takes one file and one line in `ENGINES`: see `tests/parts/threads.py`.

pytest -p mine --engine mine tests/lambdaml/engines/test_conformance.py    # one of your own, in mine.py
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

import lambdaml
from lambdaml.engines import ENGINES
from lambdaml.errors import JobFailed
from lambdaml.events import Event

JOB = f"{Path(__file__).parent / 'jobs.py'}:Points"
WORKERS, STEPS = 4, 24

Events = list[dict[str, Any]]


def train(url: str, **options: Any) -> lambdaml.TrainResult:
    return lambdaml.train(JOB, url, workers=WORKERS, **{"steps": STEPS, "snapshot_every": 8, **options})


@pytest.fixture(scope="module")
def undisturbed() -> str | None:
    return train("memory://conformance", functions=1).model_sha256


@pytest.fixture(params=["inline", "local", "threads", "ray", "lambda"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(ENGINES.factories, "threads", "tests.parts.threads:ThreadEngine")
    if request.param == "lambda":
        monkeypatch.setenv("AWS_ENDPOINT_URL_LAMBDA", request.getfixturevalue("platform").url)
    if request.param == "ray":
        request.getfixturevalue("cluster")
        request.getfixturevalue("patient")
    name: str = request.param
    return name


@pytest.mark.parametrize("functions", [1, 2, 4])
def test_the_bits_do_not_depend_on_the_engine_nor_on_the_number_of_functions(
    engine: str, functions: int, undisturbed: str, tmp_path: Path
) -> None:
    events: Events = []
    url = f"file://{tmp_path}/run"
    slow = {"lease_s": 300.0}  # on a busy machine one process may start half a minute after the other
    result = train(url, engine=engine, functions=functions, on_event=events.append, **slow)
    assert result.model_sha256 == undisturbed
    run = lambdaml.Run(url)
    assert run.verify().faults == []
    assert len({row["function"] for row in run.trace()}) == functions
    commits = [event.commit for event in events if event.event == "commit"]
    assert commits == list(range(STEPS))
    assert {"run", "snapshot", "metrics"} <= {event.event for event in events}
    assert set(run.metrics()) == {8, 16, 24}


def test_a_job_that_raises_is_named_with_its_file_and_line_and_the_logs_have_what_it_printed(
    engine: str, tmp_path: Path
) -> None:
    url = f"file://{tmp_path}/run"
    with pytest.raises(JobFailed, match=r"no more of this \(.*jobs\.py:"):
        train(url, engine=engine, functions=2, args={"fails": 5})
    lines = lambdaml.Run(url).logs()
    failed = {(line.worker, line.seq) for line in lines if line.source == "error" and line.frames}
    printed = {(line.worker, line.seq) for line in lines if line.text == "here it fails"}
    assert failed and failed <= printed


def test_after_ctrl_c_nobody_works_on_and_the_run_can_be_resumed_at_once(
    engine: str, undisturbed: str, tmp_path: Path
) -> None:
    told = False

    def interrupt(event: Event) -> None:
        nonlocal told
        if event.event == "commit" and not told:
            told = True
            os.kill(os.getpid(), signal.SIGINT)

    url = f"file://{tmp_path}/run"
    seconds = 0.3 if engine == "ray" else 0.1  # on a busy machine a cluster's events come late
    with pytest.raises(KeyboardInterrupt):
        train(url, engine=engine, functions=2, args={"seconds": seconds}, on_event=interrupt)
    summary = lambdaml.Run(url).summary()
    assert summary.stop is None
    began = time.monotonic()
    assert lambdaml.resume(url, engine=engine, functions=2).model_sha256 == undisturbed
    assert time.monotonic() - began < lambdaml.Run(url).settings.lease_s
    assert lambdaml.Run(url).verify().faults == []


@pytest.mark.parametrize("engine", ["local"], indirect=True)
def test_a_function_whose_process_is_killed_is_replaced(engine: str, undisturbed: str, tmp_path: Path) -> None:
    pids: list[int] = []

    def kill(event: Event) -> None:
        if event.event == "started":
            pids.append(event.pid)
        elif event.event == "commit" and len(pids) == 2:
            os.kill(pids[0], signal.SIGKILL)
            pids.append(0)

    options: dict[str, Any] = {"engine": engine, "functions": 2, "args": {"seconds": 0.05}}
    result = train(f"file://{tmp_path}/run", on_event=kill, **options)
    assert len(pids) == 4, "killed, and replaced"
    assert result.model_sha256 == undisturbed
    assert lambdaml.Run(f"file://{tmp_path}/run").verify().faults == []


def test_an_engine_that_is_not_needed_is_closed(engine: str) -> None:
    unused = ENGINES.make(engine)
    unused.start()
    assert unused.compute.submit(lambda: 7).result() == 7
    unused.close()
