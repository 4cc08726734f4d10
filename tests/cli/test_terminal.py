"""Runs under a real terminal: that they finish, and that Ctrl-C ends them at whatever moment; `benchmarks/ctrl_c.py`
measures how fast."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from benchmarks._terminal import Moment, Shown, in_terminal
from lambdaml.cli._interrupt import INTERRUPTED
from tests.cli.conftest import Cli, command

JOB = f"{Path(__file__).parents[2] / 'benchmarks' / 'jobs.py'}:Judged"
STEPS = 40
SOON_S = 10.0
"""For a machine with other things to do; on a quiet one it is two seconds."""

MOMENTS: tuple[tuple[str, float], ...] = (
    ("importing", 0.6),
    ("starting", 1.5),
    ("beginning", 0.5),
    ("training", 0.1),
    ("ending", 0.2),
)
"""What a command is at, and for how many seconds that may last."""


def train(place: Path, moment: Moment | None = None, *options: object, store: str = "") -> Shown:
    length = ("--workers", 2, "--steps", STEPS, "--snapshot-every", 1)
    line = command("train", JOB, *length, "--store", store or place, *options)
    return in_terminal(line, moment) if moment is not None else in_terminal(line)


def once(reached: Callable[[int, str], bool], later_s: float = 0.0) -> Moment:
    """So many seconds after something was reached for the first time."""
    at: list[float] = []

    def moment(pid: int, seconds: float, text: str) -> bool:
        if not at and reached(pid, text):
            at.append(seconds)
        return bool(at) and seconds >= at[0] + later_s

    return moment


def drawn(seed: int, place: Path) -> Moment:
    """A moment that depends on the seed alone."""
    random = Random(seed)
    what, lasts_s = MOMENTS[seed % len(MOMENTS)]
    entry = random.randrange(STEPS)
    reached: dict[str, Callable[[int, str], bool]] = {
        "importing": lambda pid, text: len(os.listdir(f"/proc/{pid}/task")) > 1,  # one of them waits for Ctrl-C
        "starting": lambda pid, text: "starting" in text,
        "beginning": lambda pid, text: (place / "run.json").exists(),
        "training": lambda pid, text: (place / "log" / f"{entry:010d}.json").exists(),
        "ending": lambda pid, text: (place / "model.safetensors").exists(),
    }
    return once(reached[what], random.uniform(0.0, lasts_s))


def demand_a_good_end(shown: Shown, place: Path, cli: Cli) -> None:
    """It ended soon and quietly, and left either a run that can be finished or nothing."""
    assert shown.code in (0, INTERRUPTED), shown.text
    assert shown.end_s is not None and shown.end_s < SOON_S
    assert "Traceback" not in shown.text
    assert "Exception" not in shown.text
    if (place / "run.json").exists():
        if shown.code == INTERRUPTED and "all steps taken" not in shown.text:  # it had told its result already
            assert "lambdaml resume" in shown.text
        assert cli("resume", place, "--engine", "inline").code == 0
        assert cli("verify", place).code == 0
    else:
        assert shown.code == INTERRUPTED
        assert "stopped" in shown.text
        assert "lambdaml resume" not in shown.text


def test_a_run_with_an_evaluation_at_every_update_finishes_in_a_terminal(tmp_path: Path, cli: Cli) -> None:
    shown = train(tmp_path / "run")
    assert shown.code == 0, shown.text
    assert f"version {STEPS}: quality 0.5" in shown.text
    assert cli("verify", tmp_path / "run").code == 0


@pytest.mark.parametrize(
    "seed", [*range(7), *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(7, 47))], ids=str
)
def test_ctrl_c_at_any_moment_ends_a_run_that_can_be_resumed(seed: int, tmp_path: Path, cli: Cli) -> None:
    place = tmp_path / "run"
    demand_a_good_end(train(place, drawn(seed, place)), place, cli)


@pytest.mark.parametrize("reached", ["log/0000000003.json", "model.safetensors"])
def test_an_evaluation_that_goes_on_does_not_hold_up_ctrl_c(reached: str, tmp_path: Path, cli: Cli) -> None:
    place = tmp_path / "run"
    evaluating = once(lambda pid, text: (place / reached).exists())
    shown = train(place, evaluating, "--set", "seconds=120")
    assert shown.code == INTERRUPTED, shown.text
    assert shown.end_s is not None and shown.end_s < SOON_S
    assert "Traceback" not in shown.text
    assert "lambdaml resume" in shown.text


def test_a_slow_store_does_not_hold_up_ctrl_c(tmp_path: Path, cli: Cli) -> None:
    place = tmp_path / "run"
    training = once(lambda pid, text: (place / "log" / "0000000001.json").exists())
    shown = train(place, training, store=f"file://{place}?latency=300ms")
    assert shown.code == INTERRUPTED, shown.text
    assert shown.end_s is not None and shown.end_s < SOON_S
    assert "Traceback" not in shown.text
    assert "lambdaml resume" in shown.text
    assert cli("resume", place, "--engine", "inline").code == 0
    assert cli("verify", place).code == 0
