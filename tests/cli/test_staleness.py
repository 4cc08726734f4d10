"""`lambdaml staleness`"""

from __future__ import annotations

from pathlib import Path

from lambdaml.traces.delays import synthetic_trace
from tests.cli.conftest import Cli, Trained


def test_it_shows_distribution_causes_workers_and_trend(cli: Cli, trained: Trained) -> None:
    ended = cli("staleness", trained.place)
    assert (ended.code, ended.err) == (0, "")
    assert "live, asp, 4 workers, 48 updates applied" in ended.out
    for name in ("staleness", "age", "made of", "store"):
        assert f"\n{name} " in ended.out
    headings = [line.split()[0] for line in ended.out.splitlines() if line.split()[1:2] == ["updates"]]
    assert headings == ["staleness", "worker", "versions"]
    assert "unexplained" not in ended.out


def test_json_adds_up(cli: Cli, trained: Trained) -> None:
    found = cli("staleness", trained.place, "--json").json
    assert (found["source"], found["applied"], found["attributed"]) == ("live", 48, 48)
    assert sum(found["counts"].values()) == 48
    assert abs(sum(found["split"].values()) - found["staleness"]["mean"]) < 1e-9
    assert [part["updates"] for part in found["workers"]] == [12] * 4
    assert sum(part["updates"] for part in found["trend"]) == 48


def test_a_trace_file_will_do(cli: Cli, trained: Trained) -> None:
    assert cli("trace", trained.place, "--parquet", "trace.parquet").code == 0
    of_run, of_file = (cli("staleness", where, "--json").json for where in (trained.place, "trace.parquet"))
    assert of_run.pop("run") != of_file.pop("run")
    assert of_run == of_file


def test_a_trace_without_causes_says_so(cli: Cli) -> None:
    synthetic_trace("categorical:40", workers=2, steps=60).save("synthetic.parquet")
    ended = cli("staleness", "synthetic.parquet")
    assert "unexplained  120 updates" in ended.out
    assert "made of" not in ended.out
    assert " 0-2 " in ended.out


def test_a_run_that_is_not_there_is_a_mistake(cli: Cli, tmp_path: Path) -> None:
    ended = cli("staleness", tmp_path / "none")
    assert ended.code == 2
    assert "there is no run at" in ended.err
