"""`--aggregate`: what is refused in one line, and what run.json and the command of a report say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import DIGITS, Cli

JOB = (DIGITS, "--workers", 5, "--functions", 1, "--engine", "inline", "--steps", 2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--aggregate", "krum:2"), ["'krum:2'", "needs 7 updates", "'bsp'", "5 workers"]),
        (("--aggregate", "median", "--schedule", "asp"), ["'median'", "'asp'"]),
        (("--aggregate", "median", "--pattern", "tree:2"), ["'median'", "'tree:2'", "gather"]),
        (("--aggregate", "median", "--codec", "topk:0.1"), ["'median'", "'topk:0.1'", "fp32"]),
        (("--aggregate", "median", "--schedule", "auto"), ["--aggregate", "auto"]),
        (("--aggregate", "meridian"), ["'meridian'", "did you mean 'median'"]),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    cli: Cli, tmp_path: Path, options: tuple[str, ...], words: list[str]
) -> None:
    ended = cli("train", *JOB, *options, "--store", tmp_path / "run")
    said = " ".join(ended.err.split())
    assert ended.code == 2 and said.count("error: ") == 1
    assert all(word in said for word in words), said
    assert not (tmp_path / "run").exists()


def test_a_run_names_its_aggregate_and_can_be_trained_again_with_it(cli: Cli, tmp_path: Path) -> None:
    assert cli("train", *JOB, "--aggregate", "krum:1", "--store", tmp_path / "run").code == 0
    assert json.loads((tmp_path / "run" / "run.json").read_bytes())["aggregate"] == "krum:1"
    again = cli("report", tmp_path / "run")
    assert again.code == 0 and "--aggregate krum:1" in " ".join(again.out.split())
