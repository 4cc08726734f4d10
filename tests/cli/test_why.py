"""`lambdaml why`: the answer first, then what took time and what would help, in 80 columns."""

from pathlib import Path

import pytest

import lambdaml
from tests.cli.conftest import Cli
from tests.cost.reporting.runs import recorded_run


@pytest.fixture
def slow(tmp_path: Path) -> str:
    """The folder of a run with one slow function."""
    from lambdaml.storage import open_store

    url = str(tmp_path / "run")
    there, here = open_store(url), recorded_run(stragglers="slow:1,6").store
    for info in here.list(""):
        data = here.get(info.key)
        assert data is not None
        there.create(info.key, data)
    return url


def test_why_begins_with_the_verdict_and_fits_80_columns(cli: Cli, slow: str) -> None:
    done = cli("why", slow, "--as", "lambda-arm:1769", "--store-as", "s3-standard")
    assert done.code == 0
    assert done.out.startswith("A slow worker cost most: with worker 1 (steps 6.0 times as long as")
    assert all(len(line) <= 80 for line in done.out.splitlines())
    for part in ("what took time", "what would help", "USD", "try   worker 1", "note  Simulated again"):
        assert part in done.out


def test_why_has_no_dollars_for_a_run_that_cost_none(cli: Cli, slow: str) -> None:
    assert "USD" not in cli("why", slow, "--as", "local").out


def test_why_gives_the_whole_diagnosis_as_json(cli: Cli, slow: str) -> None:
    record = cli("why", slow, "--json").json
    found = lambdaml.why(slow)
    assert record["verdict"] == found.verdict
    assert [lever["what"] for lever in record["levers"]] == [lever.what for lever in found.levers]
    assert record["causes"][0]["gain_s"] == pytest.approx(found.causes[0].gain_s)


def test_why_says_in_one_line_that_there_is_no_run(cli: Cli, tmp_path: Path) -> None:
    done = cli("why", tmp_path / "nothing")
    assert done.code == 2 and len(done.err.splitlines()) == 1
