"""`watch` shows a run that others work on, and leaves it alone unless it is asked to keep it."""

import re
import subprocess
import time
from pathlib import Path

import pytest

from benchmarks._terminal import in_terminal
from lambdaml.engines.invoke import Invoker, Work
from lambdaml.log import keys
from lambdaml.log.launches import Launch
from lambdaml.storage import copy, open_store
from tests.cli.conftest import Cli, command
from tests.lambdaml.lab import Tiny, broken_off

TINY = f"{Path(__file__).resolve().parents[1] / 'lambdaml' / 'lab.py'}:Tiny"


def test_a_run_is_followed_until_it_has_ended(cli: Cli, tmp_path: Path) -> None:
    run = f"file://{tmp_path}/run"
    given = ("train", TINY, "--store", f"{run}?latency=20ms", "--workers", 2, "--functions", 1, "--steps", 60)
    with subprocess.Popen(command(*given), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as training:
        store, end = open_store(run), time.monotonic() + 60
        while store.head(keys.log(0)) is None:
            assert time.monotonic() < end
            time.sleep(0.05)
        ended = cli("watch", run)
        assert training.wait() == 0
    assert ended.err.startswith("version "), "a line now and then"
    assert "run: bsp, 2 workers, 60 steps" in ended.out
    assert "60 after 60 commits" in ended.out
    assert "finished" in ended.out
    again = cli("watch", run, "--json").json
    assert (again["version"], again["over"], again["spending"]["channel"]) == (60, True, "disk")


def test_a_run_that_nobody_works_on_is_started_again_only_if_that_is_asked_for(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, run = broken_off(Tiny, workers=2, steps=8, lease_s=1.0), f"file://{tmp_path}/run"
    store = open_store(run)
    copy(left.store, store)
    assert "stopped" in cli("watch", run).out
    assert "was not launched on Lambda" in cli("watch", run, "--keep").err

    launch, sent = Launch(store, "aa"), []
    launch.begin(Work("aa", run, 2, 0, 2, 0, None, "1.0").to_event())

    def send(invoker: Invoker, event: dict[str, object]) -> None:
        sent.append(event["first"])
        if len(sent) == 2:
            raise KeyboardInterrupt  # somebody presses Ctrl-C

    monkeypatch.setattr(Invoker, "send", send)
    ended = cli("watch", run, "--keep", "--endpoint-url", "http://127.0.0.1:9")
    assert (ended.code, sent) == (130, [0, 1])
    assert ended.err.endswith("the run goes on\n")
    assert launch.latest() == {0: 0, 1: 0}


@pytest.mark.parametrize("columns", [80, 120])
def test_a_terminal_shows_a_picture_that_fits_it(columns: int, tmp_path: Path) -> None:
    run = f"file://{tmp_path}/run"
    given = ("train", TINY, "--store", f"{run}?latency=20ms", "--workers", 2, "--functions", 1, "--steps", 60)
    with subprocess.Popen(command(*given), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as training:
        store, end = open_store(run), time.monotonic() + 60
        while store.head(keys.log(0)) is None:
            assert time.monotonic() < end
            time.sleep(0.05)
        shown = in_terminal(command("watch", run), columns=columns)
        assert training.wait() == 0
    assert shown.code == 0, shown.text
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.text)
    assert max(map(len, re.split(r"[\r\n]+", plain))) <= columns
    assert re.search(r"running +[█░]+ \d+%", plain)
    assert re.search(r"this view: \d+ requests", plain)
    assert re.search(r"ended +█+ 100%, finished", plain)
