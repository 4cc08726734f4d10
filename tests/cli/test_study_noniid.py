"""`lambdaml study noniid`: its table, page and JSON; going on after an interruption; mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from lambdaml.studies.noniid import runner
from lambdaml.studies.noniid.plan import SkewPlan, SkewUnit
from lambdaml.studies.noniid.table import TABLE, SkewRow
from lambdaml.studies.tables import load_rows
from tests.cli.conftest import Cli

SMALL = ("--algorithms", "bsp,fedavg", "--norms", "none", "--skews", "100", "--seeds", 2, "--iterations", 20)


def test_a_study_writes_its_table_and_page_and_says_how_accurate(cli: Cli) -> None:
    ended = cli("study", "noniid", *SMALL, "--processes", 1, "--json")
    assert ended.code == 0, ended.err
    found = ended.json
    assert [(cell["algorithm"], cell["skew"], cell["seeds"]) for cell in found["cells"]] == [
        (algorithm, skew, 2) for algorithm in ("bsp", "fedavg") for skew in (0, 100)
    ]
    assert found["cells"][0]["drop"] == 0.0 and found["cells"][3]["traffic"] == pytest.approx(5.0)
    assert all(len(row["partitions"]) == len(row["home"]) == 5 for row in found["rows"])
    assert [row.seed for row in load_rows(Path("study"), TABLE, SkewRow)] == [0, 1] * 4
    assert Path("study/noniid.parquet").exists()
    html = Path(found["page"]).read_text()
    assert "figure data-chart" in html
    assert not any(outside in html.split("<script>")[0] for outside in ("http://", "https://", "src=", "@import"))

    again = cli("study", "noniid", *SMALL, "--processes", 1)
    lines = again.out.splitlines()
    assert lines[0].split() == ["model", "algorithm", "norm", "0", "%", "100", "%", "bytes"]
    assert lines[1].split()[:3] == ["mlp", "bsp", "none"] and max(map(len, lines)) <= 80


def test_what_the_table_holds_is_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = SkewPlan(("mlp",), ("bsp", "dgc"), ("none",), (), seeds=1, iterations=20)
    units: list[SkewUnit] = []
    compute = runner.run_skew_unit

    def counted(unit: SkewUnit) -> list[SkewRow]:
        units.append(unit)
        if len(units) == 2:
            raise KeyboardInterrupt
        return compute(unit)

    monkeypatch.setattr(runner, "run_skew_unit", counted)
    with pytest.raises(KeyboardInterrupt):
        runner.run_skew_study(plan, tmp_path)
    assert [row.algorithm for row in load_rows(tmp_path, TABLE, SkewRow)] == ["bsp"]
    rows = runner.run_skew_study(plan, tmp_path)
    assert [unit.algorithm for unit in units] == ["bsp", "dgc", "dgc"]
    assert rows == load_rows(tmp_path, TABLE, SkewRow) == runner.run_skew_study(plan, tmp_path)
    more = SkewPlan(("mlp",), ("bsp",), ("none",), (40,), seeds=1, iterations=20)
    assert len(runner.run_skew_study(more, tmp_path)) == 2
    assert units[-1].settings == ((40, 0),)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["noniid", "--models", "resnet"], "there is no model 'resnet'"),
        (["noniid", "--algorithms", "sgd"], "there is no algorithm 'sgd'"),
        (["noniid", "--norms", "layer"], "there is no normalisation 'layer'"),
        (["noniid", "--norms", ","], "name a model, an algorithm and a normalisation"),
        (["noniid", "--skews", "33"], "a degree of skew is a multiple of 5 from 0 to 100 percent, not 33"),
        (["noniid", "--skews", "much"], "--skews takes whole numbers"),
        (["noniid", "--iterations", "30"], "iterations must be a multiple of 20, not 30"),
        (["noniid", "--delays", "geometric"], "study noniid has no --delays, which is for study staleness"),
        (["staleness", "--norms", "batch"], "study staleness has no --norms, which is for study noniid"),
    ],
)
def test_a_mistake_is_one_line(cli: Cli, options: list[str], says: str) -> None:
    ended = cli("study", *options)
    assert ended.code == 2 and ended.out == ""
    assert says in ended.err and ended.err.count("\n") == 1
