"""`--tune`: what is refused in one line, and what run.json, `verify`, `trace`, `bill` and the command of a report say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import DIGITS, Cli

GAIA = ("--algorithm", "local:1,ahead=yes,outer=sum", "--codec", "significant:0.3,decay=none", "--partition", "skew:1")
JOB = (DIGITS, "--workers", 3, "--functions", 1, "--engine", "inline", "--steps", 8, *GAIA)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--tune", "skewscout", "--schedule", "asp"), ["'skewscout'", "'asp'", "bsp"]),
        (("--tune", "skewscout", "--pattern", "tree:2"), ["'skewscout'", "'tree:2'", "gather"]),
        (
            ("--tune", "skewscout", "--codec", "fp32", "--algorithm", "gradient"),
            ["'skewscout'", "'fp32'", "'gradient'"],
        ),
        (("--tune", "skewscout:knob=steps"), ["not 'knob=steps'"]),
        (("--tune", "skewscot"), ["'skewscot'", "did you mean 'skewscout'"]),
        (("--tune", "skewscout:every=0"), ["every must be 2 or more"]),
        (("--tune", "skewscout", "--schedule", "auto"), ["--tune", "auto"]),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    cli: Cli, tmp_path: Path, options: tuple[str, ...], words: list[str]
) -> None:
    job = [option for option in JOB if option not in GAIA[4:]] if "auto" in options else JOB
    ended = cli("train", *job, *options, "--store", tmp_path / "run")
    said = " ".join(ended.err.split())
    assert ended.code == 2 and said.count("error: ") == 1
    assert all(word in said for word in words), said
    assert not (tmp_path / "run").exists()


def test_a_run_names_its_tuner_and_says_what_it_did(cli: Cli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert cli("train", *JOB, "--tune", "skewscout:every=2", "--store", run).code == 0
    assert json.loads((run / "run.json").read_bytes())["tune"] == "skewscout:every=2"
    verified = cli("verify", run)
    assert verified.code == 0 and "the tuner set threshold = " in " ".join(verified.out.split())
    traced = " ".join(cli("trace", run).out.split())
    assert "the tuner set threshold = " in traced and "(from log entry 2 on)" in traced
    assert "tuning 3 models travelled, which took 9 reads" in " ".join(cli("bill", run).out.split())
    assert json.loads(cli("bill", run, "--json").out)["tuning"]["get"] == 9
    assert "--tune skewscout:every=2" in " ".join(cli("report", run).out.split())
