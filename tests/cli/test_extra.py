"""`--extra`: what is refused in one line, what run.json says, and the price in a plan."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Cli
from tests.cost.profiles import digits
from tests.lambdaml.worker.test_kills import JOB

FEDAVG = (JOB, "--workers", 3, "--steps", 2, "--algorithm", "local:2", "--engine", "inline")


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAMBDAML_HOME", str(tmp_path / "home"))
    digits().dump(tmp_path / "digits.profile.json")
    return tmp_path / "digits.profile.json"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--extra", "per-sample"), ["'per-sample'", "needs samples"]),
        (("--extra", "per-sample:3", "--algorithm", "gradient"), ["'gradient'", "'per-sample:3'", "local:H"]),
        (("--extra", "per-sample:3", "--schedule", "asp"), ["'asp'", "'per-sample:3'", "bsp"]),
        (("--extra", "per-sample:3", "--schedule", "auto"), ["--extra", "auto"]),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(
    cli: Cli, tmp_path: Path, options: tuple[str, ...], words: list[str]
) -> None:
    found = cli("train", *FEDAVG, "--store", tmp_path / "run", *options)
    assert found.code == 2 and found.err.count("\n") == 1, found.err
    assert all(word in found.err for word in words), found.err
    assert not (tmp_path / "run").exists()


def test_a_run_names_it_and_can_be_trained_again_with_it(cli: Cli, tmp_path: Path) -> None:
    assert cli("train", *FEDAVG, "--extra", "per-sample:3,codec=bf16", "--store", tmp_path / "run").code == 0
    assert json.loads((tmp_path / "run" / "run.json").read_bytes())["extra"] == "per-sample:3,codec=bf16"
    again = cli("report", tmp_path / "run")
    assert again.code == 0 and "--extra per-sample:3,codec=bf16" in " ".join(again.out.split())


def planned(cli: Cli, profile: Path, *options: Any) -> Any:
    return cli("plan", "--profile", profile, "--epochs", 20, "--workers", 8, "--extra", "per-sample:50", *options)


def test_a_plan_says_what_it_costs_and_its_command_asks_for_it(cli: Cli, profile: Path) -> None:
    found = planned(cli, profile, "--algorithm", "local:5", "--json").json
    best = found["candidates"][found["chosen"]]
    assert (best["schedule"], best["codec"]) == ("bsp", "fp32")
    assert "--extra per-sample:50" in found["command"] and shlex.split(found["command"])[0] == "lambdaml"
    size_bytes = 5 * 50 * (8 + 4 * 9610)
    (said,) = [remark for remark in found["remarks"] if "per-sample:50" in remark]
    assert f"{round(best['steps'] * best['group'])} objects of {size_bytes / 1e6:.1f} MB" in said
    assert "for compute" in said and "for each month" in said


def test_a_plan_of_what_it_does_not_go_with_is_refused(cli: Cli, profile: Path) -> None:
    for options in ((), ("--algorithm", "local:5", "--schedule", "asp"), ("--algorithm", "local:5,outer=nesterov")):
        found = planned(cli, profile, *options)
        assert found.code == 2 and "'per-sample:50'" in found.err and found.err.count("\n") == 1
