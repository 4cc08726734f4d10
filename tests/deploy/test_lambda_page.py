"""docs/lambda.md: its prices are those of the book, its sums are right, and its commands parse."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from lambdaml import prices
from lambdaml.cli._app import app

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "lambda.md").read_text()
ROWS = {cells[0]: cells[1:] for row in re.findall(r"^\| (.*) \|$", PAGE, re.MULTILINE) if (cells := row.split(" | "))}
COMMANDS = re.findall(r"^    (lambdaml .*)$", PAGE.replace("\\\n", ""), re.MULTILINE)


def usd(text: str) -> float:
    return float(re.findall(r"\$([\d.]+)", text)[-1])


@pytest.mark.parametrize(
    ("row", "id", "times"),
    [
        ("a function on x86, each GB and second", "lambda-x86/duration", 1),
        ("a function on arm64, each GB and second", "lambda-arm/duration", 1),
        ("1,000,000 invocations", "lambda-x86/invocation", 1_000_000),
        ("S3: 1,000 puts, creates or lists", "s3-standard/put", 1000),
        ("S3: 1,000 gets, 404s included", "s3-standard/get", 1000),
        ("S3: storage", "s3-standard/storage", 1),
        ("ECR: images, compressed", "ecr/storage", 1),
        ("CloudWatch: logs", "cloudwatch-logs/bytes-in", 1),
    ],
)
def test_a_price_is_that_of_the_book_with_its_month(row: str, id: str, times: int) -> None:
    price = prices()[id]
    assert usd(ROWS[row][0]) == pytest.approx(price.usd * times)
    months = "January February March April May June July August September October November December".split()
    year, month = price.date.split("-")[:2]
    assert ROWS[row][1] == f"{months[int(month) - 1]} {year}"


def test_the_sums_of_the_run_are_right() -> None:
    sums = []
    for row in ("functions", "invocations", "puts, creates, lists", "gets"):
        arithmetic, dollars = ROWS[row]
        expression = re.sub(r"[A-Zs$,]|GB", "", arithmetic.replace(" x ", "*"))
        factors = [part.split("/") for part in expression.split("*")]
        product = 1.0
        for first, *others in factors:
            product *= float(first)
            for other in others:
                product /= float(other)
        assert usd(dollars) == pytest.approx(product, abs=0.0001), row
        sums.append(product)
    assert usd(ROWS["together"][1]) == pytest.approx(sum(sums), abs=0.0001)


def test_an_hour_of_a_function_and_a_month_of_the_image() -> None:
    for place in ("x86", "arm"):
        assert f"${prices()[f'lambda-{place}/duration'].usd * 1769 / 1024 * 3600:.4f}" in PAGE
    (gb, month) = re.findall(r"(0\.\d\d) GB compressed.*\n.*?\$(\d\.\d+) a month", PAGE)[0]
    assert float(month) == pytest.approx(float(gb) * prices()["ecr/storage"].usd)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_parses(command: str) -> None:
    _, verb, *words = shlex.split(command, comments=True)
    group = typer.main.get_command(app)
    group.commands[verb].make_context(verb, words)  # type: ignore[attr-defined,unused-ignore]


def test_every_step_names_a_price() -> None:
    steps = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    numbered = [step for step in steps if re.match(r"\d\.", step)]
    assert len(numbered) == 7
    assert all(re.search(r"\$\d|[Ff]ree\b|costs something", step) for step in numbered)


def test_it_is_linked() -> None:
    assert "(docs/lambda.md)" in (ROOT / "README.md").read_text()
    assert "(../docs/lambda.md)" in (ROOT / "deploy" / "README.md").read_text()
