"""The price book: its numbers, a user's file on top of it, and mistakes in one."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from lambdaml.cost.billing.prices import HOW_TO_PRICE, ITEMS, PRICES_VARIABLE, Price, PriceBook, prices, user_file
from lambdaml.cost.billing.refresh import write
from lambdaml.errors import SettingsError
from lambdaml.simulation.channel import CHANNELS
from lambdaml.simulation.platform import PLATFORMS

DATA = Path(__file__).resolve().parents[3] / "cost" / "data"


def user(folder: Path, text: str) -> Path:
    file = folder / "mine.toml"
    file.write_text(text)
    return file


def test_every_file_of_prices_is_packaged_and_no_id_stands_twice() -> None:
    ids = [price["id"] for file in DATA.glob("*.toml") for price in tomllib.loads(file.read_text()).get("price", [])]
    assert sorted(ids) == sorted(PriceBook.load())


def test_every_price_says_where_it_was_found_when_and_how() -> None:
    for price in PriceBook.load().values():
        assert price.source and re.match(r"20\d\d", price.date), price.id
        assert price.how in HOW_TO_PRICE and price.how != "given", price.id
        assert price.origin == f"{price.source} ({price.date}, {HOW_TO_PRICE[price.how]})"


def test_today_and_the_published_models_are_priced_and_the_machine_at_hand_is_not() -> None:
    book = PriceBook.load()
    assert set(CHANNELS) - set(book.places) == {"disk", "fmi-redis"}
    assert set(PLATFORMS.factories) - set(book.places) == {"local"}
    assert book["s3-standard/put"].usd == 5e-6
    assert [book["fmi-s3/get"].usd, book["fmi-s3/put"].usd] == [0.43e-6, 5.4e-6]
    assert book["lambda-arm/duration"].usd / book["lambda-x86/duration"].usd == pytest.approx(0.8, abs=1e-3)


def test_no_price_stands_in_code() -> None:
    folders = ("cost", "lambdaml/simulation")
    shipped = [path for folder in folders for path in (DATA.parents[1] / folder).rglob("*.py")]
    prices = {price.usd for price in PriceBook.load().values()}
    known = {usd for usd in prices if 0 < usd < 1e-4 or len(f"{usd:g}".lstrip("0.")) > 2}  # no numbers like 0.02
    written = re.compile(r"(?<![\w.])\d+\.\d+(?:e-?\d+)?\b")
    found = [
        (path.name, text) for path in shipped for text in written.findall(path.read_text()) if float(text) in known
    ]
    assert not found


def test_a_users_file_replaces_what_it_names_and_keeps_the_rules(tmp_path: Path) -> None:
    file = user(tmp_path, '[[price]]\nid = "lambda-arm/duration"\nusd = 1e-5\nunit = "GB-second"\n')
    book, packaged = PriceBook.load(file), PriceBook.load()
    assert book["lambda-arm/duration"] == Price(
        "lambda-arm/duration", 1e-5, "GB-second", "mine.toml", "undated", "given", step_s=0.001
    )
    assert {id for id in book if book[id] != packaged[id]} == {"lambda-arm/duration"}


def test_later_files_win(tmp_path: Path) -> None:
    one, two = (tmp_path / name for name in ("one.toml", "two.toml"))
    for file, usd in ((one, 1.0), (two, 2.0)):
        file.write_text(f'[[price]]\nid = "spot/instance"\nusd = {usd}\nunit = "hour"\ndate = 2026-11-01\n')
    assert PriceBook.load(one, two)["spot/instance"].usd == 2.0
    assert PriceBook.load(two, one)["spot/instance"].date == "2026-11-01"


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    book = PriceBook.load()
    odd = Price("spot/instance", 0.03, "hour", 'a "quoted" \\ back\tslash, é', "2026", "listed", 1.0, 60.0)
    write({**book, odd.id: odd}, tmp_path / "deep" / "prices.toml")
    again = PriceBook.load(tmp_path / "deep" / "prices.toml")
    assert dict(again) == {**book, odd.id: odd}


def test_the_commands_use_the_users_own_file_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PRICES_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert user_file() == tmp_path / "lambdaml" / "prices.toml"
    assert prices()["s3-standard/get"].usd == 4e-7
    monkeypatch.setenv(
        PRICES_VARIABLE, str(user(tmp_path, '[[price]]\nid = "s3-standard/get"\nusd = 1\nunit = "request"'))
    )
    assert prices()["s3-standard/get"].usd == 1
    assert PriceBook.load()["s3-standard/get"].usd == 4e-7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("price = 3", r"mine.toml is no price book: it must hold \[\[price\]\] tables"),
        ("[prices]", r"is no price book"),
        ("[[price]", r"mine.toml is not TOML"),
        ('[[price]]\nusd = 1\nunit = "hour"', r"the price '\?' needs id"),
        ('[[price]]\nid = "spot/instance"\nusd = 1', r"mine.toml: the price 'spot/instance' needs unit"),
        ('[[price]]\nid = "spot/instance"\nunit = "hour"', r"needs usd"),
        (
            '[[price]]\nid = "spot/instanc"\nusd = 1\nunit = "hour"',
            r"no price 'spot/instanc' \(did you mean 'spot/inst",
        ),
        ('[[price]]\nid = 3\nusd = 1\nunit = "hour"', r"there is no price 3"),
        ('[[price]]\nid = "spot/instance"\nusd = 1\nunit = "day"', r"spot/instance: unit must be hour, not 'day'"),
        ('[[price]]\nid = "redis/storage"\nusd = 1\nunit = "GB-month"', r"redis/storage: unit must be GB-hour"),
        (
            '[[price]]\nid = "spot/instance"\nusd = -1\nunit = "hour"',
            r"usd must be a number that is not negative, not -1",
        ),
        ('[[price]]\nid = "spot/instance"\nusd = nan\nunit = "hour"', r"usd must be a number"),
        ('[[price]]\nid = "spot/instance"\nusd = "1"\nunit = "hour"', r"usd must be a number"),
        ('[[price]]\nid = "spot/instance"\nusd = true\nunit = "hour"', r"usd must be a number"),
        ('[[price]]\nid = "spot/instance"\nusd = 1\nunit = "hour"\nhow = "felt"', r"how must be one of read"),
        ('[[price]]\nid = "spot/instance"\nusd = 1\nunit = "hour"\nsource = 3', r"source must be text"),
        ('[[price]]\nid = "spot/instance"\nusd = 1\nunit = "hour"\nprice = 3', r"has no field 'price'"),
    ],
)
def test_a_mistake_in_a_users_file_is_one_line_that_names_file_and_price(
    text: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        PriceBook.load(user(tmp_path, text))
    assert "mine.toml" in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_an_id_that_does_not_exist_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot read .*none.toml: No such file"):
        PriceBook.load(tmp_path / "none.toml")
    with pytest.raises(SettingsError, match=r"no price 's3-standard/got' \(did you mean 's3-standard/get'"):
        _ = PriceBook.load()["s3-standard/got"]


def test_items_have_units() -> None:
    used = {(price.item, price.unit) for price in PriceBook.load().values()}
    assert used <= {(item, unit) for item, units in ITEMS.items() for unit in units}
    assert {item for item, _ in used} == set(ITEMS)
