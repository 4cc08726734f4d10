"""What README says is so: its commands parse, its programs run, and what it prints is printed today."""

from __future__ import annotations

import re
import runpy
import shlex
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import typer

import lambdaml
from lambdaml.cli._app import app
from tests.cli.conftest import Cli, cli

__all__ = ["cli"]

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PROGRAMS = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [line.partition("   #")[0].strip() for line in re.findall(r"^    (lambdaml .*)$", README, re.MULTILINE)]


def block(first: str) -> list[str]:
    """The indented lines from one that begins so to the end of its block."""
    lines = README.split(f"\n    {first}")[1].splitlines()
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


def test_every_command_parses() -> None:
    group: Any = typer.main.get_command(app)
    assert len(COMMANDS) > 20
    for line in COMMANDS:
        program, verb, *arguments = shlex.split(line)
        assert program == "lambdaml"
        group.commands[verb].make_context(verb, arguments)


def test_the_swept_schedules_come_out_as_printed(cli: Cli) -> None:
    (line,) = [line for line in COMMANDS if "--sweep" in line]
    ended = cli(*shlex.split(line)[1:])
    assert ended.code == 0, ended.err
    _, table = ended.out.split("\n\n")
    assert table.splitlines() == block("schedule ")


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


def test_the_programs_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    job, program = PROGRAMS
    monkeypatch.chdir(tmp_path)
    Path("my.py").write_text(job)
    monkeypatch.setattr(lambdaml, "train", partial(lambdaml.train, engine="inline"))
    Path("program.py").write_text(program)
    runpy.run_path("program.py")
    first, second = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"\d+ \{'accuracy': 0\.\d+\} \d+\.\d+", first)
    assert second == "finished True"
