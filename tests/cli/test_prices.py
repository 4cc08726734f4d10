"""Prices on the command line: the list, a user's file, and asking AWS."""

from __future__ import annotations

from pathlib import Path

import pytest

from lambdaml.cost.billing.prices import PriceBook, user_file
from lambdaml.cost.billing.refresh import Refreshed
from tests.cli.conftest import Cli

MINE = '[[price]]\nid = "s3-standard/get"\nusd = 3e-7\nunit = "request"\nsource = "my contract"\ndate = 2026-11-01\n'


@pytest.fixture(autouse=True)
def wide(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a line of the screen is a line of text; tests/cli/test_width.py is about narrow ones."""
    monkeypatch.setenv("COLUMNS", "200")


def test_every_price_is_listed_with_its_date_and_source(cli: Cli) -> None:
    ended = cli("prices")
    assert (ended.code, ended.err) == (0, "")
    lines = {line.split()[0]: line for line in ended.out.splitlines() if line}
    book = PriceBook.load()
    assert set(book) <= set(lines)
    assert all(price.source in lines[id] and price.date in lines[id] for id, price in book.items())
    assert ended.out.endswith("no-prices.toml (there is none)\n")
    assert [one["id"] for one in cli("prices", "--json").json] == list(book)


def test_a_users_own_prices_show_and_count(cli: Cli) -> None:
    Path("mine.toml").write_text(MINE)
    found = {one["id"]: one for one in cli("prices", "--prices", "mine.toml", "--json").json}
    assert (found["s3-standard/get"]["usd"], found["s3-standard/get"]["source"]) == (3e-7, "my contract")
    few = ("--workers", 2, "--updates", 6, "--channel", "s3-standard", "--platform", "local", "--json")
    before = cli("simulate", *few).json["modelled"]["usd"]
    user_file().write_text(MINE.replace("3e-7", "1"))
    assert cli("simulate", *few).json["modelled"]["usd"]["requests"] > before["requests"] + 1


def test_refreshing_says_what_changed_and_where_it_was_written(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(file: Path, book: PriceBook) -> Refreshed:
        prices = {id: book[id] for id in ("s3-standard/get", "s3-standard/put")}
        return Refreshed(prices, {"s3-standard/get": (4e-7, 3e-7)}, {"spot/instance": "why not"}, ("redis/ecpu",), file)

    monkeypatch.setattr("lambdaml.cost.billing.refresh.refresh", told)
    ended = cli("prices", "--refresh", "--prices", "new.toml")
    assert ended.code == 0
    assert ended.out.splitlines() == [
        "changed    s3-standard/get: 4e-07 -> 3e-07",
        "kept       spot/instance: why not",
        "unchanged  1 of 2 prices that AWS told",
        "not asked  redis/ecpu",
        "written    new.toml",
    ]


def test_mistakes_and_a_missing_account_are_one_line(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    Path("bad.toml").write_text(MINE.replace("request", "hour"))
    for options, code, says in (
        (("--prices", "none.toml"), 2, "there is no file none.toml"),
        (("--prices", "bad.toml"), 2, "bad.toml: s3-standard/get: unit must be request, not 'hour'"),
        (("--refresh",), 1, "cannot ask AWS for prices: Unable to locate credentials"),
    ):
        ended = cli("prices", *options)
        assert (ended.code, ended.out, len(ended.err.splitlines())) == (code, "", 1)
        assert says in ended.err
    assert not user_file().exists()
