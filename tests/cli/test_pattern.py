"""`--pattern auto`: one line says what was chosen, and run.json has the pattern itself."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import DIGITS, Cli

JOB = (DIGITS, "--workers", 4, "--functions", 1, "--engine", "inline", "--steps", 2)


def test_auto_tells_its_choice_and_records_the_pattern(cli: Cli, tmp_path: Path) -> None:
    ended = cli("train", *JOB, "--pattern", "auto", "--store", tmp_path / "run")
    assert ended.code == 0
    told = next(line for line in ended.err.splitlines() if line.startswith("pattern "))
    pattern = json.loads((tmp_path / "run" / "run.json").read_bytes())["pattern"]
    assert told.startswith(f"pattern {pattern}: a round takes about ")


def test_auto_is_gather_where_nothing_else_fits(cli: Cli, tmp_path: Path) -> None:
    only = ("--staleness", "inverse", "--codec", "topk:0.01", "--bracket", "3")
    ended = cli("train", *JOB, *only, "--pattern", "auto", "--store", tmp_path / "run")
    assert ended.code == 0 and "pattern gather: " in ended.err
    run = json.loads((tmp_path / "run" / "run.json").read_bytes())
    assert (run["pattern"], run["bracket"]) == ("gather", "3")


def test_auto_refuses_what_no_pattern_allows_before_it_measures(cli: Cli, tmp_path: Path) -> None:
    ended = cli("train", *JOB, "--bracket", "x", "--pattern", "auto", "--store", tmp_path / "run")
    assert ended.code == 2 and "bracket" in ended.err and not (tmp_path / "run").exists()


def test_a_pattern_that_does_not_fit_is_refused_with_its_reason(cli: Cli, tmp_path: Path) -> None:
    ended = cli("train", *JOB, "--schedule", "asp", "--pattern", "tree:2", "--store", tmp_path / "run")
    assert ended.code == 2 and "pattern 'tree:2'" in ended.err


def test_simulate_says_what_it_would_choose(cli: Cli) -> None:
    ended = cli("simulate", "--workers", 8, "--updates", 32)
    told = " ".join(ended.out.split("\nbest ")[1].split())
    assert told.startswith("pattern ") and "a round takes about" in told
