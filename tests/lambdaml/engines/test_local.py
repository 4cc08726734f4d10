"""Ends of the local engine's processes: the fork server, functions that end politely, a run that is deleted."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import lambdaml
from lambdaml.engines import LaunchSpec
from lambdaml.engines.local import LocalEngine
from lambdaml.errors import JobFailed, LambdaMLError, RunFailed
from lambdaml.events import Event
from tests.lambdaml.lab import Tiny, memory, settings_of

JOB = f"{Path(__file__).parent / 'jobs.py'}:Points"
OPTIONS: dict[str, Any] = {"workers": 2, "functions": 2, "snapshot_every": 8, "engine": "local"}


def server_of(pid: int) -> int:
    """The process that forked this one."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_fork_server_that_is_killed_is_started_again_and_the_run_ends_with_its_bits(tmp_path: Path) -> None:
    killed: list[int] = []
    started: list[int] = []
    ended: list[dict[str, Any]] = []

    def kill(event: Event) -> None:
        if event.event == "started":
            started.append(event.pid)
        elif event.event == "ended":
            ended.append(event)
        elif event.event == "commit" and event.commit >= 5 and not killed:
            killed.append(server_of(started[-1]))
            os.kill(killed[0], signal.SIGKILL)

    url = f"file://{tmp_path}/run"
    result = lambdaml.train(JOB, f"{url}?latency=5ms", steps=40, on_event=kill, **OPTIONS)
    plain = lambdaml.train(JOB, "memory://fork-server-plain", workers=2, steps=40, snapshot_every=8)
    assert killed and result.model_sha256 == plain.model_sha256
    lost = [event for event in ended if event.uncounted]
    assert len(lost) == 2 and all("the process that starts functions ended, with signal 9" == e.reason for e in lost)
    assert lambdaml.Run(url).verify().faults == []
    assert {usage.function: usage.complete for usage in lambdaml.Run(url).usage()}.items() >= {
        (event.function, False) for event in lost
    }


def launch(tmp_path: Path) -> LaunchSpec:
    from lambdaml.storage import open_store

    return LaunchSpec(open_store(f"file://{tmp_path}/run"), settings_of(Tiny()), Tiny(), functions=1)


def with_server(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Have the engine start a process that does this, instead of a fork server."""
    popen = subprocess.Popen

    def start(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        return popen([sys.executable, "-c", code], **options)

    monkeypatch.setattr("lambdaml.engines.local.subprocess.Popen", start)


BROKEN_SERVER = """
from lambdaml.engines import forkserver
def warm_up():
    raise ImportError("torch is not for this machine")
forkserver.warm_up = warm_up
forkserver.main()
"""


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "import os; os._exit(3)",
            r"6 times in a row without progress \(.*starts functions ended, with exit status 3\)",
        ),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "killed 6 times in a row .* out of memory"),
        (
            BROKEN_SERVER,
            "the process that starts functions could not start: ImportError: torch is not for this machine",
        ),
    ],
    ids=["exits", "killed", "raises"],
)
def test_a_fork_server_that_cannot_start_is_the_error_and_not_the_pipe_to_it(
    code: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_server(monkeypatch, code)
    engine = LocalEngine()
    try:
        with pytest.raises(RunFailed, match=message):
            engine.run(launch(tmp_path), lambda event: None)
    finally:
        engine.close()


POLITE = """
import os, sys
from tests.lambdaml.lab import Tiny
class Polite(Tiny):
    def loss(self, model, batch):
        {}
"""


@pytest.mark.parametrize(
    ("end", "error", "message"),
    [
        ("os._exit(0)", RunFailed, r"without progress \(.* ended itself without having finished, with exit status 0\)"),
        ("sys.exit(0)", JobFailed, r"Polite\.loss raised SystemExit: 0"),
    ],
)
def test_a_function_that_ends_politely_has_not_finished(
    end: str, error: type[LambdaMLError], message: str, tmp_path: Path
) -> None:
    job = tmp_path / "polite.py"
    job.write_text(POLITE.format(end))
    with pytest.raises(error, match=message):
        lambdaml.train(f"{job}:Polite", f"file://{tmp_path}/run", steps=4, **{**OPTIONS, "functions": 1})


def test_a_run_that_is_deleted_while_it_goes_on_stops_and_says_so(tmp_path: Path) -> None:
    place = tmp_path / "run"

    def delete(event: Event) -> None:
        if event.event == "commit" and event.commit == 5:
            shutil.rmtree(place, ignore_errors=True)
            (place / "run.json").unlink(missing_ok=True)

    with pytest.raises(LambdaMLError, match="deleted|not there|no run|no snapshot|No such file"):
        lambdaml.train(JOB, f"file://{place}", steps=100_000, on_event=delete, args={"seconds": 0.01}, **OPTIONS)


def test_a_deleted_run_of_inline_functions_stops_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lambdaml.worker.stop_watcher.STOP_POLL_S", 0.05)
    store = memory()

    def delete(event: Event) -> None:
        if event.event == "commit" and event.commit == 5:
            store.delete([info.key for info in store.list()])

    with pytest.raises(RunFailed, match=r"run\.json is not there any more"):
        lambdaml.train(Tiny(), store.url, workers=2, steps=10**6, on_event=delete)
