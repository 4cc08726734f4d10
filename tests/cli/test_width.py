"""What people read fits a terminal of 80 columns, and no word is broken."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from shutil import copyfile, copytree
from typing import Any

import click
import pytest
import typer

import lambdaml
from benchmarks._terminal import in_terminal
from lambdaml.cli import _format
from lambdaml.cli import plan as plan_verb
from lambdaml.cli._app import app
from lambdaml.cost.planning.candidates import SearchSpace
from lambdaml.cost.planning.command import how_to_run
from lambdaml.cost.planning.objective import Objective
from lambdaml.cost.planning.pilot import PilotRun
from lambdaml.cost.planning.plan import make_plan
from lambdaml.cost.reporting.planned import Comparison
from lambdaml.storage import copy, open_store
from tests.cli.conftest import DIGITS, Cli, Trained, command
from tests.cli.test_influence import JOB as CLIENTS
from tests.cost.profiles import digits
from tests.cost.reporting.test_report import JOB, PLANNED
from tests.lambdaml.lab import Tiny, broken_off

NARROW = ("--workers", "2", "--schedule", "bsp", "--codec", "fp32", "--platform", "local")
LITTLE = ("--engine", "inline", "--functions", "1", "--set", "hidden=16", "--steps", "4")
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/lambdaml:1"
ONCE = {"profile", "study", "metrics"}  # two are slow, and curves are as wide as there is room
HELP_ALONE = {"lambda-local"}  # it serves until it is stopped
COMMANDS: dict[str, click.Command] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
VERBS: dict[str, tuple[str, ...]] = {
    "train": ("train", DIGITS, *LITTLE),
    "train, a target": ("train", DIGITS, *LITTLE, "--target", "loss<=99", "--snapshot-every", "1"),
    "resume": ("resume", "{run}"),
    "profile": ("profile", DIGITS, "--set", "hidden=16", "--seconds", "1", "--codec", "bf16"),
    "plan": ("plan", "--profile", "{profile}", *NARROW),
    "study": ("study", "staleness", "--models", "mlr", "--algorithms", "adam", "--staleness", "4", "--seeds", "1"),
    "replay": ("replay", "{run}"),
    "rerun": ("rerun", "{planned}", "--without", "client:1", "--store", "{new}"),
    "set": ("set", "{going}", "lr=0.1"),
    "cancel": ("cancel", "{run}"),
    "copy": ("copy", "{run}", "{new}"),
    "gc": ("gc", "{run}", "--yes"),
    "doctor": ("doctor", "{new}"),
    "deploy": ("deploy", "aws", "--bucket", "my-bucket", "--image", IMAGE, "--email", "me@example.com", "--dry-run"),
    "trace": ("trace", "{run}"),
    "staleness": ("staleness", "{run}"),
    "status": ("status", "{run}"),
    "watch": ("watch", "{run}"),
    "metrics": ("metrics", "{run}"),
    "logs": ("logs", "{run}"),
    "why": ("why", "{run}"),
    "influence": ("influence", "{federated}", "--truth"),
    "verify": ("verify", "{run}"),
    "bill": ("bill", "{run}", "--as", "lambda-arm:1769", "--store-as", "s3-standard"),
    "bill, many workers": ("bill", "{many}"),
    "report": ("report", "{planned}"),
    "prices": ("prices",),
    "simulate": ("simulate", "--sweep", "bsp asp quorum:2", "--workers", "4", "--updates", "80"),
}


@pytest.fixture(scope="module")
def places(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What the verbs are given."""
    folder = tmp_path_factory.mktemp("width")
    made = {name: folder / name for name in ("many", "planned", "going", "profile", "federated")} | {
        "run": trained.place
    }
    reason = "the least product of time and cost of 1,234 candidates, within the deadline: 12 s and $0.0123, or so"
    lambdaml.train(JOB, str(made["planned"]), workers=2, steps=8, engine="inline", planned=PLANNED | {"reason": reason})
    lambdaml.train(JOB, str(made["many"]), workers=12, steps=2, engine="inline", schedule="asp", functions=2)
    federated = {"schedule": "cohort:2", "algorithm": "local:2", "extra": "per-sample:5", "args": {"clients": 6}}
    lambdaml.train(CLIENTS, str(made["federated"]), workers=6, steps=4, engine="inline", **federated)
    copy(broken_off(Tiny, workers=2, steps=8).store, open_store(f"file://{made['going']}"))
    known = digits()
    replace(known, job=replace(known.job, spec=DIGITS, args={"hidden": 16})).dump(made["profile"])
    return made


@pytest.fixture
def given(places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """The words of a verb, with places in the working folder that are new to each call."""
    monkeypatch.chdir(tmp_path)
    numbers = count()

    def words_of(example: str) -> list[str]:
        names = {name: f"{name}-{next(numbers)}" for name in ("new", *places)}
        for name, place in places.items():
            if f"{{{name}}}" in VERBS[example]:
                (copyfile if place.is_file() else copytree)(place, names[name])
        return [word.format(**names) for word in VERBS[example]]

    return words_of


def too_wide(text: str, columns: int = 80) -> set[str]:
    """The lines that are wider, but for single words, such as paths."""
    return {line for line in text.splitlines() if len(line) > columns and len(line.split()) > 2}


def words(text: str) -> set[str]:
    """Those without digits, which may differ from one time to the next."""
    return {word for word in text.split() if not any(letter.isdigit() for letter in word)}


def test_every_verb_has_an_example() -> None:
    assert {name.partition(",")[0] for name in VERBS} | HELP_ALONE == set(COMMANDS)


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "plan"])  # it is slow; see below
def test_80_columns_are_enough_and_no_word_is_broken(
    verb: str, given: Callable[[str], list[str]], cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow = cli(*given(verb))
    assert narrow.code == 0, narrow.err
    assert too_wide(narrow.out) == too_wide(narrow.err) == set()
    assert "\x1b" not in narrow.out + narrow.err
    if verb not in ONCE:
        monkeypatch.setenv("COLUMNS", "2000")
        assert words(narrow.out) <= words(cli(*given(verb)).out) | {"\\"}


@pytest.mark.parametrize("verb", ["", *COMMANDS])
def test_the_help_of_every_verb_fits_80_columns(verb: str, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = cli(*filter(None, [verb]), "--help")
    assert shown.code == 0
    assert max(map(len, shown.out.splitlines())) <= 80
    monkeypatch.setenv("COLUMNS", "2000")
    assert shown.out.count("…") == cli(*filter(None, [verb]), "--help").out.count("…"), "nothing is cut off"
    assert "\x1b" not in shown.out


@pytest.mark.parametrize("chosen", [True, False])
def test_a_plan_fits_80_columns_and_its_command_is_whole(
    chosen: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pilots = tuple(PilotRun(*key, 32, 101, (), 500, 1.0) for key in ((1, 0), (1, 1), (4, 0)))
    known = replace(digits(), pilot=pilots, target="accuracy>=0.9")
    known = replace(known, job=replace(known.job, spec=DIGITS, args={"hidden": 16}))
    names = {"schedules": ("bsp", "asp"), "batch_sizes": (32,), "codecs": ("fp32",), "platforms": ("local",)}
    objective = Objective("accuracy>=0.9", space=SearchSpace(workers=(2, 2), channels=("s3-standard",), **names))
    found = make_plan(known, objective, processes=1)
    never = replace(found.candidates[1], obstacle="every update is later than the schedule waits for " * 2)
    found = replace(found, candidates=(found.candidates[0], never), chosen=0 if chosen else None)
    out = []
    for width in ("80", "2000"):
        monkeypatch.setenv("COLUMNS", width)
        plan_verb._print(found, how_to_run(found), everything=True)
        out.append(capsys.readouterr().out)
    assert max(map(len, out[0].splitlines())) <= 80
    assert words(out[0]) <= words(out[1]) | {"\\"}
    assert ("lambdaml train" in out[0]) is chosen
    assert out[0].replace(" \\\n   ", "").count("\n  lambdaml train") == chosen


ESCAPE = re.compile(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|[@-Z\\-_])")
IN_A_TERMINAL = ("train", "status", "watch", "metrics", "trace", "report", "why", "plan")


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("verb", IN_A_TERMINAL)
def test_in_a_terminal_it_is_as_wide_as_that(verb: str, columns: int, given: Callable[[str], list[str]]) -> None:
    shown = in_terminal(command(*given(verb)), columns=columns)
    assert shown.code == 0, shown.text
    lines = "\n".join(re.split(r"[\r\n]+", ESCAPE.sub("", shown.text)))
    assert too_wide(lines, columns) == set()


@pytest.mark.parametrize("verb", ["train", "status", "trace", "prices"])
def test_a_terminal_without_colours_is_sent_no_escape_codes(verb: str, given: Callable[[str], list[str]]) -> None:
    shown = in_terminal(["env", "NO_COLOR=1", "TERM=dumb", *command(*given(verb))])
    assert shown.code == 0
    assert "\x1b" not in shown.text


@pytest.mark.parametrize("verb", ["train", "trace"])
def test_no_color_is_respected_where_the_terminal_has_colours(verb: str, given: Callable[[str], list[str]]) -> None:
    shown = in_terminal(["env", "NO_COLOR=1", *command(*given(verb))])
    assert shown.code == 0
    assert re.findall(r"\x1b\[[0-9;]*m", shown.text.replace("\x1b[0m", "").replace("\x1b[1m", "")) == []


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (Comparison("time", "s", 10.0, 12.0), "1.20x slower"),
        (Comparison("time of a step", "s", 1.0, 0.5), "2.00x faster"),
        (Comparison("cost", "USD", 0.5, 0.75), "1.50x more"),
        (Comparison("requests", "", 300, 100), "3.00x less"),
        (Comparison("mean staleness", "steps", 0.0, 0.0), "the same"),
        (Comparison("mean staleness", "steps", 0.0, 0.5), "more"),
        (Comparison("mean staleness", "steps", 0.5, 0.0), "less"),
        (Comparison("bytes sent", "", 100_000, 100_001), "about the same"),
    ],
)
def test_a_report_says_in_words_which_side_is_larger(row: Comparison, says: str) -> None:
    assert row.than_planned == says


def test_a_table_that_is_too_wide_is_dealt_out_by_columns_that_name_the_row(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    _format.print_table(["id", "first", "second", "third"], [["1", "aaaaaa", "b", "c"], ["2", "d", "eeeeee", "f"]])
    assert capsys.readouterr().out.splitlines() == [
        "id   first  second",
        " 1  aaaaaa       b",
        " 2       d  eeeeee",
        "",
        "id  third",
        " 1      c",
        " 2      f",
    ]


def test_a_column_of_words_is_broken_between_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    rows: list[list[Any]] = [["a", "words that go on and on and on"], ["b", "few"]]
    _format.print_table(["name", "finding"], rows, left=["name", "finding"])
    assert capsys.readouterr().out.splitlines() == [
        "name  finding",
        "a     words that go on and on",
        "      and on",
        "b     few",
    ]
