"""Simulating from the command line: the fields and the screen, sweeps, profiles, traces, fault seeds, and mistakes."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest

import lambdaml
from lambdaml.cli._progress import Share
from lambdaml.cli.simulate import simulate
from lambdaml.events import Event
from lambdaml.simulation.faults import FaultScenario, Verdict, play
from lambdaml.simulation.judge import judge
from tests.cli.conftest import DIGITS, Cli, Trained

FEW = ("--workers", 3, "--updates", 12, "--channel", "s3-express", "--platform", "local")

GREEDY = """
from lambdaml.schedules import SCHEDULES
from lambdaml.schedules.asp import Asp

class Greedy(Asp):
    deterministic = True

SCHEDULES.factories["greedy"] = "greedy:Greedy"
"""


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten after it."""
    from lambdaml.schedules import SCHEDULES

    monkeypatch.setattr(SCHEDULES, "factories", dict(SCHEDULES.factories))


@pytest.fixture(autouse=True)
def wide(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a line of the screen is a line of text; tests/cli/test_width.py is about narrow ones."""
    monkeypatch.setenv("COLUMNS", "200")


def test_json_has_the_fields_of_train_and_what_is_modelled(trained: Trained, cli: Cli) -> None:
    ended = cli("simulate", *FEW, "--schedule", "asp", "--json")
    assert (ended.code, ended.err) == (0, "")
    result = ended.json
    assert set(result) == {*trained.ended.json, "modelled"}
    assert set(result["staleness"]) == set(trained.ended.json["staleness"])
    assert (result["stop"], result["updates"], result["store"]) == ("steps", 12, "s3-express")
    assert set(result["modelled"]["usd"]) == {"functions", "requests", "storage", "total"}
    assert set(result["modelled"]["split"]) == {"storage", "compute", "wait"}
    assert sum(result["modelled"]["split"].values()) == pytest.approx(result["staleness"]["mean"])
    assert result["modelled"]["exact"] is True


def test_local_steps_cover_several_batches_and_memories_are_written(cli: Cli) -> None:
    memories = ("--algorithm", "local:4,outer=nesterov", "--recover", 0.7, "--error-feedback", 1)
    plain, local = (cli("simulate", *FEW, *options, "--json").json for options in ((), memories))
    assert local["updates"] == plain["updates"] and local["samples"] == 4 * plain["samples"]
    assert local["seconds"] > plain["seconds"] + 3 * 4 * 0.1
    assert local["modelled"]["costs"]["memory_bytes"] == 12_000_000
    snapshots = 3  # more than before, since an epoch is one update now
    written = local["requests"]["create"] - plain["requests"]["create"] - snapshots
    assert 3 <= written <= 6, "after every second update of each worker, unless the run has ended"
    assert "local:4" in cli("simulate", *FEW, *memories).out.splitlines()[0]


def test_options_have_the_defaults_of_the_library() -> None:
    mine, theirs = inspect.signature(simulate).parameters, inspect.signature(lambdaml.simulate).parameters
    for name in (
        "workers",
        "functions",
        "channel",
        "platform",
        "stragglers",
        "codec",
        "staleness",
        "real",
        "seed",
        "algorithm",
    ):
        assert mine[name].default == theirs[name].default
    assert theirs["schedule"].default == "bsp"


def test_one_screen_says_what_was_assumed_and_what_came_of_it(cli: Cli) -> None:
    ended = cli("simulate", *FEW, "--schedule", "asp", "--stragglers", "slow:0,2")
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert lines[0] == "asp, 3 workers on 3 functions of local, store s3-express, stragglers slow:0,2"
    facts = {line.split()[0]: line for line in lines[1:]}
    assert set(facts) == set(
        "assumed time cost updates staleness made requests bytes utilisation simulated best".split()
    ), ended.out
    assert "gradient 100 ms" in facts["assumed"] and "update 4.0 MB" in facts["assumed"]
    assert "every request simulated" in facts["simulated"]
    assert len(lines) < 24 and max(map(len, lines)) < 160


def test_a_job_is_measured_here_and_with_real_its_model_is_trained(cli: Cli) -> None:
    options = ("--workers", 2, "--steps", 3, "--functions", 1, "--set", "hidden=8", "--real", "--json")
    ended = cli("simulate", DIGITS, *options)
    assert ended.code == 0, ended.err
    assert ended.err.startswith(f"measuring {DIGITS}")
    costs = ended.json["modelled"]["costs"]
    assert costs["step_s"] > 0 and costs["update_bytes"] > 4 * 64 * 8 and costs["snapshot_bytes"] > 4 * 64 * 8
    assert set(ended.json["metrics"]) == {"accuracy", "loss"}
    assert len(ended.json["model_sha256"]) == 64


def test_a_profile_may_be_what_a_simulation_printed(cli: Cli) -> None:
    first = cli("simulate", *FEW, "--json")
    Path("first.json").write_text(first.out)
    again = cli("simulate", *FEW, "--profile", "first.json", "--json")
    assert _without_wall(again.json) == _without_wall(first.json)
    assert "\ngiven " in cli("simulate", *FEW, "--profile", "first.json").out


def _without_wall(result: dict[str, Any]) -> dict[str, Any]:
    return {**result, "modelled": {**result["modelled"], "wall_s": None}}


def test_a_profile_may_be_written_by_hand_or_be_that_of_a_sweep(cli: Cli) -> None:
    Path("hand.json").write_text('{"step_s": 2, "update_bytes": 1e6}')
    sweep = cli("simulate", *FEW, "--profile", "hand.json", "--sweep", "bsp asp", "--json")
    assert sweep.json[0]["modelled"]["costs"]["update_bytes"] == 1_000_000
    assert sweep.json[0]["seconds"] > 4 * 2
    Path("sweep.json").write_text(sweep.out)
    again = cli("simulate", *FEW, "--profile", "sweep.json", "--json")
    assert again.json["seconds"] == sweep.json[0]["seconds"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "cannot read profile.json: No such file"),
        ("step", "profile.json is not JSON"),
        ("[]", "is no profile"),
        ("{}", "a profile needs step_s"),
        ('{"step_s": 1}', "a profile needs update_bytes"),
        ('{"step_s": -1, "update_bytes": 1}', "step_s must be a number that is not negative (it is -1)"),
        ('{"step_s": Infinity, "update_bytes": 1}', "step_s must be a number"),
        ('{"step_s": 1, "update_bytes": "1"}', "update_bytes must be a number"),
        ('{"step_s": 1, "update_byte": 1, "update_bytes": 1}', "no field 'update_byte' (did you mean 'update_bytes'"),
    ],
)
def test_a_profile_that_is_none(text: str | None, says: str, cli: Cli) -> None:
    if text is not None:
        Path("profile.json").write_text(text)
    ended = cli("simulate", *FEW, "--profile", "profile.json")
    assert (ended.code, ended.out, len(ended.err.splitlines())) == (2, "", 1)
    assert says in ended.err


def test_a_trace_is_written_that_can_be_loaded(cli: Cli) -> None:
    ended = cli("simulate", *FEW, "--schedule", "asp", "--trace", "trace.parquet", "--json")
    assert ended.code == 0, ended.err
    trace = lambdaml.Trace.load("trace.parquet")
    assert (trace.source, len(trace.rows), trace.meta["commits"]) == (
        "simulated",
        12,
        ended.json["modelled"]["commits"],
    )
    assert trace.staleness.mean == ended.json["staleness"]["mean"]


def test_a_sweep_is_a_table_of_schedules(cli: Cli) -> None:
    ended = cli("simulate", *FEW, "--sweep", "bsp,asp  ssp:1, quorum:2,late=weight")
    assert (ended.code, ended.err) == (0, "")
    where, assumed, blank, headings, *rows = ended.out.splitlines()
    assert where == "3 workers on 3 functions of local, store s3-express"
    assert assumed.startswith("assumed: gradient 100 ms") and not blank
    assert headings.split()[:3] == ["schedule", "time", "USD"]
    assert [row.split()[0] for row in rows] == ["bsp", "asp", "ssp:1", "quorum:2,late=weight"]
    assert len({len(row) for row in rows}) == 1


def test_a_sweep_as_json_is_a_list_with_the_schedules_names(cli: Cli) -> None:
    found = cli("simulate", *FEW, "--sweep", "quorum:2,ssp:1", "--json").json
    assert [one["schedule"] for one in found] == ["quorum:2", "ssp:1"]
    assert found[1]["fates"]["applied"] == 12
    alone = cli("simulate", *FEW, "--schedule", "ssp:1", "--json").json
    assert _without_wall(alone) == {n: v for n, v in _without_wall(found[1]).items() if n != "schedule"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--schedule", "bps"), "there is no schedule 'bps' (did you mean 'bsp'?)"),
        (("--sweep", "bsp, bps"), "there is no schedule 'bps'"),
        (("--sweep", " "), "name schedules, for example --sweep 'bsp asp ssp:3'"),
        (("--sweep", "asp", "--schedule", "bsp"), "--sweep does not go with --schedule"),
        (("--sweep", "asp", "--trace", "x.parquet"), "--sweep does not go with --trace"),
        (("--faults", "1", "--sweep", "asp"), "--faults does not go with --sweep"),
        (("--faults", "1", DIGITS), "--faults does not go with a job"),
        (("--faults", "1", "--schedule", "bps"), "there is no schedule 'bps'"),
        (("--channel", "s3-standrad"), "did you mean s3-standard?"),
        (("--platform", "lambda-amr"), "did you mean 'lambda-arm'"),
        (("--stragglers", "lognorm:1"), "did you mean 'lognormal'"),
        (("--workers", "0"), "workers: must be 1 or more"),
        (("--regions", "us-est-1:8"), "there is no region 'us-est-1' (did you mean 'us-west-1' or 'us-east-1'?)"),
        (("--regions", "us-east-1:2,eu-west-1:1"), "have 3 functions, but the run has 8"),
        (("--regions", "us-east-1:8", "--functions", "4"), "have 8 functions, but the run has 4"),
        (("--regions", "us-east-1"), "write REGION:FUNCTIONS"),
        (("--regions", "us-east-1:8", "--bucket-region", "eu-wst-1"), "did you mean 'eu-west-1'"),
        (("--bucket-region", "eu-west-1"), "says nothing without regions of functions"),
        (("--slow-link", "8:10"), "functions have the numbers 0 to 7"),
        (("--slow-link", "3"), "write FUNCTION:TIMES"),
        (("--slow-link", "3:0"), "the factor must be positive"),
        (("--workers", "40", "--slow-link", "3:10"), "cannot be simulated in closed form"),
        (("--workers", "3", "--functions", "4"), "functions: must lie between 1 and the number of workers"),
        (("--workers", "3", "--schedule", "quorum:4"), "waits for more updates than 3 workers make"),
        (("--updates", "9", "--steps", "3"), "either steps or updates"),
        (("--real",), "real gradients need a job"),
        (("--trace", "nowhere/x.parquet"), "there is no folder nowhere"),
        (("--import", "mine.py"), "there is no file mine.py"),
        (("--import", "no.such.module"), "cannot import no.such.module: ModuleNotFoundError"),
    ],
)
def test_a_mistake_is_one_line(arguments: tuple[str, ...], says: str, cli: Cli) -> None:
    ended = cli("simulate", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("error: ") and len(ended.err.splitlines()) == 1
    assert says in ended.err


def test_regions_have_a_line_for_each_way_between_two_of_them(cli: Cli) -> None:
    options = (*FEW, "--regions", "eu-west-1:1,us-east-1:2", "--bucket-region", "us-east-1")
    found = cli("simulate", *options, "--json").json
    rows = found["modelled"]["transfers"]
    assert [(row["from"], row["to"]) for row in rows] == [("eu-west-1", "us-east-1"), ("us-east-1", "eu-west-1")]
    assert sum(row["usd"] for row in rows) == pytest.approx(found["modelled"]["usd"]["transfer"], abs=1e-8)
    first, *lines = cli("simulate", *options).out.splitlines()
    assert first == "bsp, 3 workers on 3 functions of local in eu-west-1:1,us-east-1:2, store s3-express in us-east-1"
    assert [line.split()[1:4] for line in lines if line.startswith("transfer ")] == [
        [row["from"], "to", f"{row['to']}:"] for row in rows
    ]
    assert not any(line.startswith("best ") for line in lines), "its formulas do not know the links"


def test_a_fault_seed_is_played_with_its_events_and_judged(cli: Cli) -> None:
    ended = cli("simulate", "--faults", 5)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("seed 5 ")
    assert ended.out.endswith("\n\nevery promise held\n")
    assert " f0.0   starts" in ended.out
    assert cli("simulate", "--faults", 5).out == ended.out


@pytest.mark.parametrize("seed", [3, 8])
def test_the_command_of_a_verdict_plays_the_same_history(seed: int, cli: Cli) -> None:
    events: list[tuple[float, Event]] = []
    scenario = FaultScenario.draw(seed)
    virtual, end = play(scenario, lambda now, event: events.append((now, event)))
    lambdaml_, *arguments = Verdict(seed, scenario, judge(virtual, end)).command.split()
    shown = cli(*arguments, "--json").json
    assert lambdaml_ == "lambdaml"
    assert shown["command"] == f"lambdaml {' '.join(arguments)}"
    assert [(event["s"], event["event"], event["function"]) for event in shown["events"]] == [
        (now, event.event, event.function) for now, event in events
    ]


def test_a_seed_that_breaks_a_promise_fails_and_says_which(registry: None, cli: Cli) -> None:
    Path("greedy.py").write_text(GREEDY)
    ended = cli("simulate", "--import", "greedy.py", "--faults", 5, "--schedule", "greedy")
    assert (ended.code, ended.err) == (1, "")
    assert "\nbroken: " in ended.out and ended.out.endswith(" broken\n")
    told = cli("simulate", "--import", "greedy", "--faults", 5, "--schedule", "greedy", "--json")
    assert told.code == 1
    assert [f"broken: {broken}" for broken in told.json["broken"]] == [
        line for line in ended.out.splitlines() if line.startswith("broken: ")
    ]
    assert json.dumps(told.json["scenario"])


def test_progress_is_plain_lines_on_stderr_after_a_while(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lambdaml.cli._progress.LINE_EVERY_S", 0.0)
    ended = cli("simulate", *FEW, "--schedule", "asp", "--json")
    lines = ended.err.splitlines()
    assert ended.json["updates"] == 12
    assert lines[-1].startswith("asp: 100% done, 0.0 s left")
    assert all(line.startswith("asp: ") for line in lines)


def test_ctrl_c_ends_the_work_in_the_other_thread() -> None:
    with Share("asp") as share:
        share(0.1)
        share.stop()
        with pytest.raises(KeyboardInterrupt):
            share(0.2)
