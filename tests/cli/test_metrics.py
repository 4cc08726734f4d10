"""`metrics` draws the curves of runs, and says which evaluation was the best."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

import lambdaml
from tests.cli.conftest import Cli, Trained
from tests.lambdaml.training.test_loss_parts import TinyParts


@pytest.fixture(scope="module")
def parted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose job names parts of its loss."""
    place = tmp_path_factory.mktemp("metrics") / "parted"
    lambdaml.train(TinyParts, str(place), workers=2, steps=8, snapshot_every=2, engine="inline")
    return place


def test_each_curve_is_drawn_and_the_best_stands_beside_the_latest(cli: Cli, trained: Trained, parted: Path) -> None:
    ended = cli("metrics", trained.place, parted)
    assert ended.code == 0
    for title in ("training loss (less is better)", "accuracy (more is better)", "evaluation loss (less is better)"):
        assert f"{title}, by version" in ended.out
    assert "training loss, part twice, by version" in ended.out
    table = ended.out[ended.out.index("\nrun ") :]
    assert "best  at version" in table
    assert "part seven" in table
    assert max(len(line) for line in ended.out.splitlines() if "/" not in line) <= 80


def test_json_and_csv_hold_all_points(cli: Cli, parted: Path) -> None:
    (found,) = cli("metrics", parted, "--json", "--patience", 1).json
    loss = dict(map(tuple, found["loss"]))
    assert dict(map(tuple, found["parts"]["twice"])) == pytest.approx({at: 2 * value for at, value in loss.items()})
    (standing,) = found["standings"]
    assert (standing["name"], standing["better"], standing["latest"][0]) == ("accuracy", "more", 8)
    assert standing["stops"] in (2, 4, 6, 8, None)
    assert cli("metrics", parted, "--csv", "points.csv").out == ""
    rows = list(csv.DictReader(Path("points.csv").read_text(encoding="utf-8").splitlines()))
    assert {row["kind"] for row in rows} == {"loss", "part", "metric"}
    assert sum(row["kind"] == "loss" for row in rows) == len(loss) == 8


def test_patience_says_where_a_run_would_have_stopped(cli: Cli, parted: Path) -> None:
    out = cli("metrics", parted, "--patience", 1000).out
    assert "stops at" in out
    assert "never" in out


def test_train_stops_when_nothing_improves_and_says_so(cli: Cli, tmp_path: Path) -> None:
    job = tmp_path / "job.py"
    job.write_text(
        "from tests.lambdaml.lab import Tiny\n\n\nclass Flat(Tiny):\n"
        "    def evaluate(self, model):\n        return {'zeal': 1.0}\n"
    )
    place = tmp_path / "run"
    ended = cli(
        *("train", f"{job}:Flat", "--steps", 400, "--workers", 1, "--snapshot-every", 2, "--engine", "inline"),
        *("--patience", 3, "--store", place),
    )
    assert ended.code == 0, ended.err
    assert "(stopped: zeal has not improved for 3 evaluations)" in " ".join(ended.out.split())
    assert "best" in ended.out and "zeal 1 at version 2" in ended.out
    assert "stopped improving" in cli("status", place).out
    assert "resume" not in cli("status", place).out


def test_a_run_without_metrics_is_no_error(cli: Cli, tmp_path: Path) -> None:
    job = tmp_path / "job.py"
    job.write_text(
        "from tests.lambdaml.lab import Tiny\n\n\nclass Mute(Tiny):\n    def evaluate(self, model):\n        return {}\n"
    )
    place = tmp_path / "run"
    assert cli("train", f"{job}:Mute", "--steps", 2, "--workers", 1, "--engine", "inline", "--store", place).code == 0
    ended = cli("metrics", place)
    assert "training loss" in ended.out
    assert "no metrics: the job's evaluate() reports none" in ended.out
    refused = cli(
        "train", f"{job}:Mute", "--steps", 2, "--patience", 1, "--engine", "inline", "--store", tmp_path / "b"
    )
    assert (refused.code, "patience: Mute.evaluate reports no metric" in refused.err) == (2, True)
