"""What README says is printed is printed today; `tests/docs/test_code.py` runs its programs and parses its commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from tests.cli.conftest import Cli, cli

__all__ = ["cli"]

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
SIMULATION = (ROOT / "docs" / "concepts" / "simulation.md").read_text()


def block(first: str, page: str = README) -> list[str]:
    """The indented lines from one that begins so to the end of its block."""
    lines = page.split(f"\n    {first}")[1].splitlines()
    rest = lines[1 : next(number for number, line in enumerate(lines) if number and not line.startswith("    "))]
    return [first + lines[0], *(line.removeprefix("    ") for line in rest)]


def masked(line: str) -> str:
    """Without its numbers and how wide they are."""
    return re.sub(r"\s+", " ", re.sub(r"\d[\d.,]*", "0", line)).strip()


def pairs(lines: list[str]) -> dict[str, str]:
    """What a run came to, by name."""
    found: dict[str, str] = {}
    for line in lines[next(number for number, line in enumerate(lines) if line.startswith("result ")) :]:
        name = line[:12].strip() or list(found)[-1]
        found[name] = f"{found.get(name, '')} {line[12:]}"
    return found


def test_the_swept_schedules_come_out_as_printed(cli: Cli) -> None:
    (line,) = re.findall(r"^ {4}(lambdaml simulate --sweep .*)$", SIMULATION, re.MULTILINE)
    ended = cli(*shlex.split(line)[1:])
    assert ended.code == 0, ended.err
    _, table = ended.out.split("\n\n")
    assert table.splitlines() == block("schedule ", SIMULATION)


def test_the_first_minute_looks_like_this(cli: Cli) -> None:
    first, *lines = block("moto://demo/digits: ")
    options = ("--workers", 4, "--functions", 2, "--target", "accuracy>=0.95", "--store", "memory://demo/digits")
    ended = cli("train", ROOT / "examples" / "digits.py", *options)
    assert ended.code == 0, ended.err
    shown = ended.out.splitlines()
    assert shown[0] == first.replace("moto", "memory")
    news = [masked(line) for line in lines if re.match(r"version \d+: ", line)]
    assert set(news) == {masked(line) for line in shown if re.match(r"version \d+: ", line)}
    printed_facts, facts = (
        {fact for line in text if re.match(r"version \d+, ", line) for fact in masked(line).split(", ")}
        for text in (lines, shown)
    )
    assert facts and facts <= printed_facts
    printed, now = pairs(lines), pairs(shown)
    assert list(printed) == list(now)
    differ = ("requests", "bytes", "time")  # of another store, and of another day
    assert [masked(printed[name]) for name in printed if name not in differ] == [
        masked(now[name]) for name in now if name not in differ
    ]
