"""What people read fits a terminal of 80 columns, and no word is broken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import lambdaml
from lambdaml.cli import _format
from lambdaml.cli import plan as plan_verb
from lambdaml.cost.planning.candidates import SearchSpace
from lambdaml.cost.planning.command import how_to_run
from lambdaml.cost.planning.objective import Objective
from lambdaml.cost.planning.pilot import PilotRun
from lambdaml.cost.planning.plan import make_plan
from lambdaml.cost.reporting.planned import Comparison
from tests.cli.conftest import DIGITS, Cli, Trained
from tests.cost.profiles import digits
from tests.cost.reporting.test_report import JOB, PLANNED

VERBS: dict[str, tuple[str, ...]] = {
    "trace": ("trace", "{run}"),
    "staleness": ("staleness", "{run}"),
    "status": ("status", "{run}"),
    "watch": ("watch", "{run}"),
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
    made = {"run": trained.place, "many": folder / "many", "planned": folder / "planned"}
    reason = "the least product of time and cost of 1,234 candidates, within the deadline: 12 s and $0.0123, or so"
    lambdaml.train(JOB, str(made["planned"]), workers=2, steps=8, engine="inline", planned=PLANNED | {"reason": reason})
    lambdaml.train(JOB, str(made["many"]), workers=12, steps=2, engine="inline", schedule="asp", functions=2)
    return made


@pytest.mark.parametrize("verb", VERBS)
def test_80_columns_are_enough_and_no_word_is_broken(
    verb: str, places: dict[str, Path], cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [argument.format(**places) for argument in VERBS[verb]]
    narrow = cli(*arguments)
    monkeypatch.setenv("COLUMNS", "2000")
    wide = cli(*arguments)
    assert narrow.code == wide.code == 0
    assert {line for line in narrow.out.splitlines() if len(line) > 80 and len(line.split()) > 2} == set()
    assert words(narrow.out) <= words(wide.out) | {"\\"}


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


def words(text: str) -> set[str]:
    """Those without digits, which may differ from one time to the next."""
    return {word for word in text.split() if not any(letter.isdigit() for letter in word)}


def test_in_a_terminal_of_80_columns_it_is_the_same(trained: Trained, cli: Cli) -> None:
    from benchmarks._terminal import in_terminal
    from tests.cli.conftest import command

    shown = in_terminal(command("trace", trained.place))
    assert shown.code == 0
    assert shown.text.replace("\r\n", "\n") == cli("trace", trained.place).out


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
