"""`train --schedule auto`: planning, training, and planning again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import lambdaml
from lambdaml.cost.planning import replan
from lambdaml.cost.planning.pilot import PilotRun
from lambdaml.cost.profiling.profile import Profile
from tests.cli.conftest import DIGITS, Cli
from tests.cost.profiles import digits

TARGET = "accuracy>=0.9"
AUTO = ("train", DIGITS, "--schedule", "auto", "--workers", 2, "--target", TARGET, "--engine", "inline")


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAMBDAML_HOME", str(tmp_path / "home"))
    pilots = tuple(PilotRun(*key, 32, 101, (), 500, 1.0) for key in ((1, 0), (1, 1), (2, 0)))
    made: Profile = replace(digits(), pilot=pilots, target=TARGET)
    path = tmp_path / "digits.profile.json"
    made.dump(path)
    return path


def test_a_plan_is_announced_and_written_down(cli: Cli, profile: Path) -> None:
    ended = cli(*AUTO, "--profile", profile, "--store", "here")
    assert ended.code == 0, ended.err
    said = [line for line in ended.err.splitlines() if not line.startswith("planning: ")]  # progress, on a slow machine
    assert [line.startswith("planned: ") for line in said] == [True]
    settings = lambdaml.Run(f"file://{Path.cwd()}/here").settings
    assert settings.planned is not None and settings.planned["reason"] in ended.err
    assert cli("report", "here").code == 0


def test_auto_hands_on_the_algorithm_that_was_asked_for(cli: Cli, profile: Path) -> None:
    way = ("--algorithm", "local:5,outer=nesterov", "--epochs", 5, "--engine", "inline", "--workers", 2)
    ended = cli("train", DIGITS, "--schedule", "auto", *way, "--profile", profile, "--store", "here")
    assert ended.code == 0, ended.err
    settings = lambdaml.Run(f"file://{Path.cwd()}/here").settings
    assert settings.algorithm == "local:5,outer=nesterov" and settings.planned is not None
    assert settings.planned["algorithm"] == settings.algorithm
    clash = ("--staleness", "nesterov", "--store", "there")
    ended = cli("train", DIGITS, "--schedule", "auto", *way, "--profile", profile, *clash)
    assert ended.code == 2 and "both add momentum" in ended.err and "planned" not in ended.err


def test_a_run_goes_on_in_another_way_where_that_is_worth_it(
    cli: Cli, profile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here: once, at the first snapshot, whatever it takes."""

    def once(watch: replan.Replanner) -> bool:
        return watch._since is not None and watch._plans == 0 and watch._plan.objective.remaining == 1.0

    take = replan.Replanner.take

    def take_and_wait(watch: replan.Replanner, event: dict[str, Any]) -> None:
        """Or a short run ends before it is planned."""
        take(watch, event)
        if watch._thread is not None:
            watch._thread.join()

    monkeypatch.setattr(replan.Replanner, "take", take_and_wait)
    monkeypatch.setattr(replan.Replanner, "_left_the_plan", once)
    monkeypatch.setattr(replan, "LEAVES", 1e9)
    monkeypatch.setattr(replan, "WORTH", 1e9)
    way = ("--epochs", 20, "--snapshot-every", 5, "--workers", 1, "--engine", "inline", "--seed", 7)
    assert cli("train", DIGITS, "--store", "here.2", "--steps", 1, "--workers", 1, "--engine", "inline").code == 0
    ended = cli(
        "train", DIGITS, "--schedule", "auto", "--replan", "--profile", profile, *way, "--store", "here?latency=5ms"
    )
    assert ended.code == 0, ended.err
    folder = Path.cwd()
    first, second = (lambdaml.Run(f"file://{folder}/{name}") for name in ("here", "here.3"))
    assert first.summary().stop == "replanned" and second.summary().stop == "steps"
    origin, plan = second.settings.init_from, second.settings.planned
    assert origin is not None and origin.run.startswith(first.url) and origin.version == first.summary().version > 0
    assert second.settings.seed == 8
    assert plan is not None and "took" in plan["reason"] and plan["reason"] in ended.err
    assert first.summary().samples + second.summary().samples == pytest.approx(20 * 1437, rel=0.15)
    assert second.metrics()[second.summary().version]["accuracy"] > 0.9
    assert [first.verify().faults, second.verify().faults] == [[], []]
    for line in ("planning again", "planned again", "here.3"):
        assert line in ended.err + ended.out
    assert "\nbegan with" in cli("status", "here.3").out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--replan",), "--replan goes with --schedule auto"),
        (("--profile", "p.json"), "--profile goes with --schedule auto"),
        (("--schedule", "auto", "--replan", "--deadline", "1m"), "a run of its own"),
        (("--schedule", "auto", "--replan", "--steps", 5), "a run of its own"),
        (("--schedule", "auto", "--replan", "--store", "memory://gone"), "gone with this command"),
        (("--schedule", "auto", "--replan", "--store", "file:///"), "not all of it"),
        (("--schedule", "auto", "--from", "runs/a"), "begin with a fresh model"),
    ],
)
def test_what_does_not_go_together(cli: Cli, options: tuple[object, ...], words: str) -> None:
    ended = cli("train", DIGITS, "--target", TARGET, *options)
    assert ended.code == 2 and words in ended.err
