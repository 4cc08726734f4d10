"""`lambdaml study`: its table, page and JSON; going on after an interruption; mistakes."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from lambdaml.errors import UserError
from lambdaml.studies.staleness import rates, runner, table
from lambdaml.studies.staleness.plan import StudyPlan, Unit, make_delays
from lambdaml.studies.staleness.rate_table import RATES
from lambdaml.traces.delays import synthetic_trace
from tests.cli.conftest import Cli

SMALL = ("--models", "mlr", "--algorithms", "adam", "--staleness", "4", "--workers", 4, "--seeds", 2)


def test_a_study_writes_its_table_and_page_and_says_how_much_slower(cli: Cli) -> None:
    ended = cli("study", "staleness", *SMALL, "--processes", 1, "--json")
    assert ended.code == 0, ended.err
    found = ended.json
    assert [(bar["staleness"], bar["met"]) for bar in found["bars"]] == [(0, 2), (4, 2)]
    assert found["bars"][0]["slower"] == 1.0
    stale, base = (next(row for row in found["rows"] if (row["staleness"], row["seed"]) == (s, 1)) for s in (4, 0))
    assert stale["batches"] == 4 * stale["iterations"] and stale["limit"] > base["ran"] == base["iterations"]
    with open("study/study.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 4
    html = Path("study/study.html").read_text()
    assert found["page"] == "study/study.html"
    assert "figure data-chart" in html and "1/\\u221aT (guide)" in html
    assert not any(outside in html.split("<script>")[0] for outside in ("http://", "https://", "src=", "@import"))

    again = cli("study", "staleness", *SMALL, "--processes", 1)
    lines = again.out.splitlines()
    assert lines[0].split() == ["model", "algorithm", "workers", "batches,", "s=0", "s=4"]
    assert lines[1].split()[:3] == ["mlr", "adam", "4"]


def test_what_the_table_holds_is_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = StudyPlan(("mlr",), ("sgd",), (0, 2), (8,), seeds=1)
    units: list[Unit] = []
    compute = runner.run_unit

    def counted(unit: Unit) -> list[table.StudyRow]:
        units.append(unit)
        if len(units) == 2:
            raise KeyboardInterrupt
        return compute(unit)

    monkeypatch.setattr(runner, "run_unit", counted)
    with pytest.raises(KeyboardInterrupt):
        runner.run_study(plan, tmp_path)
    assert [row.staleness for row in table.load_table(tmp_path)] == [0]
    rows = runner.run_study(plan, tmp_path)
    assert [[setting[0] for setting in unit.settings] for unit in units] == [[0], [2], [2]]
    assert rows == table.load_table(tmp_path) == runner.run_study(plan, tmp_path)
    assert len(units) == 3


def test_the_table_is_read_back_as_it_was_written_also_as_parquet(tmp_path: Path) -> None:
    from pyarrow import parquet

    never = table.StudyRow("mlr", "sgd", 8, "categorical", "bundled", 32, 0, 0.01, 0.92, 900, None, 900, "[[900, 0.5]]")
    table.save(tmp_path, [never])
    assert table.load_table(tmp_path) == [never]
    assert parquet.read_table(tmp_path / "study.parquet").to_pylist()[0]["iterations"] is None
    (bar,) = table.bars([never])
    assert (bar.slower, bar.met, bar.seeds) == (None, 0, 1)


def test_a_recorded_trace_is_late_by_what_was_recorded(tmp_path: Path) -> None:
    trace = synthetic_trace("categorical:3", 2, 50)
    trace.save(tmp_path / "trace.parquet")
    delays = make_delays(f"trace:{tmp_path / 'trace.parquet'}", 1)
    mine = [row["staleness"] for row in trace.rows if row["worker"] == 1]
    drawn = [delays.matrix(iteration, 2, 3)[1].tolist() for iteration in range(100)]
    assert drawn == [[late] * 3 for late in mine * 2]


def test_the_rate_is_the_smallest_that_is_quick_enough() -> None:
    assert rates.choose({0.1: [None] * 3, 0.2: [290, None, 160], 0.4: [140, 90, 400], 0.8: [30, 30, 30]}) == 0.4
    assert rates.choose({0.1: [500, 500, 500], 0.2: [420, 430, 440], 0.4: [300, 300, None]}) == 0.2
    with pytest.raises(UserError, match="no learning rate"):
        rates.choose({0.1: [None, None, 7]})


def test_there_is_a_rate_for_each_model_and_algorithm() -> None:
    from lambdaml.studies.staleness.algorithms import UPDATE_RULES
    from lambdaml.studies.staleness.models import MODELS

    assert set(RATES) == {name for name, model in MODELS.items() if model.make}
    assert all(set(found) == set(UPDATE_RULES) for found in RATES.values())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["stale"], "there is no study 'stale' (did you mean 'staleness'?)"),
        (["staleness", "--models", "dnn7"], "there is no model 'dnn7'"),
        (["staleness", "--algorithms", "adamw"], "there is no algorithm 'adamw'"),
        (["staleness", "--staleness", "4,many"], "--staleness takes whole numbers"),
        (["staleness", "--staleness", "-1"], "staleness must be 0 or more"),
        (["staleness", "--delays", "uniform"], "there are no delays 'uniform'"),
        (["staleness", "--delays", "trace:gone.parquet"], "cannot read gone.parquet"),
        (["staleness", "--data", "mnist"], "there is no data 'mnist'"),
    ],
)
def test_a_mistake_is_one_line(cli: Cli, options: list[str], says: str) -> None:
    ended = cli("study", *options)
    assert ended.code == 2 and ended.out == ""
    assert says in ended.err and ended.err.count("\n") == 1


def test_data_that_cannot_be_downloaded_is_one_line(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LAMBDAML_DATA", str(tmp_path))
    monkeypatch.setattr("lambdaml.studies.staleness.downloads._MOVIELENS", "http://127.0.0.1:9/ml-1m.zip")
    ended = cli("study", "staleness", "--models", "mf", "--data", "paper", "--processes", 1)
    assert ended.code == 2
    assert "cannot download http://127.0.0.1:9/ml-1m.zip" in ended.err and ended.err.count("\n") == 1
