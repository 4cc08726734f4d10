"""The bill on the command line."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from tests.cli.conftest import Cli, Trained

AS = ("--as", "lambda-arm:1769", "--store-as", "s3-standard")


def test_a_run_is_billed_as_if_on_a_platform_and_says_where_prices_are_from(
    trained: Trained, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    ended = cli("bill", trained.place, *AS)
    assert (ended.code, ended.err) == (0, "")
    facts = {line.split("  ")[0]: line for line in ended.out.splitlines()}
    assert "lambda-arm:1769 (it was local), store s3-standard (it was disk)" in facts["billed as"]
    assert facts["cost"].split()[1].startswith("$0.0")
    assert {"functions", "requests", "storage", "worker", "phase", "bytes"} <= set(facts)
    assert "price   s3-standard/get: S3 pricing" in ended.out
    assert "note    function-seconds are those of the machine it ran on" in ended.out


def test_json_and_csv_have_every_number(trained: Trained, cli: Cli) -> None:
    found = cli("bill", trained.place, *AS, "--json").json
    assert found["usd"] > 0
    assert sum(found["parts"].values()) - found["usd"] < 1e-12
    rows = list(csv.DictReader(io.StringIO(cli("bill", trained.place, *AS, "--csv", "-").out)))
    for by, name in (("worker", "workers"), ("commit", "commits"), ("phase", "phases")):
        mine = [row for row in rows if row["by"] == by]
        assert [row["name"] for row in mine] == [str(item["name"]) for item in found[name]]
        assert sum(float(row["usd"]) for row in mine if by != "phase") - found["usd"] < 1e-9
    cli("bill", trained.place, "--csv", "bill.csv")
    assert Path("bill.csv").read_text().startswith("by,name,updates,seconds,requests,get,")


def test_a_users_prices_count(trained: Trained, cli: Cli) -> None:
    Path("mine.toml").write_text(
        '[[price]]\nid = "s3-standard/get"\nusd = 1.0\nunit = "request"\nsource = "my contract"'
    )
    ended = cli("bill", trained.place, *AS, "--prices", "mine.toml")
    assert "s3-standard/get: my contract (undated, given by a user's file)" in ended.out
    assert cli("bill", trained.place, *AS, "--prices", "mine.toml", "--json").json["usd"] > 10


def test_a_mistake_is_one_line(trained: Trained, cli: Cli) -> None:
    for options, says in (
        (("--as", "lambda-amr"), "did you mean 'lambda-arm'"),
        (("--store-as", "s3-standrad"), "did you mean s3-standard"),
        (("--transfer", "pigeon"), "no transfer 'pigeon'"),
        (("--prices", "none.toml"), "cannot read none.toml"),
        (("--csv", "no/such/folder.csv"), "cannot write no/such/folder.csv"),
    ):
        ended = cli("bill", trained.place, *options)
        assert (ended.code, ended.out, len(ended.err.splitlines())) == (2, "", 1)
        assert says in ended.err
