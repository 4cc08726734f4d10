"""`plan` prints the command that runs its choice, and the command does what was planned."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import lambdaml
from lambdaml.cost.planning.pilot import PilotRun
from lambdaml.cost.profiling.profile import Profile
from lambdaml.deploy.local_lambda import LocalLambda
from lambdaml.errors import UserError
from lambdaml.simulation.platform import PLATFORMS
from tests.cli.conftest import DIGITS, Cli
from tests.cost.profiles import coded, digits

TARGET = "accuracy>=0.9"
SMALL = ("--schedule", "bsp", "--batch-size", 32)


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAMBDAML_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("lambdaml.engines.cores", lambda: 2)
    pilots = tuple(PilotRun(*key, 32, 101, (), 500, 1.0) for key in ((1, 0), (1, 1), (4, 0)))
    made: Profile = replace(digits(), pilot=pilots, target=TARGET, store=None)
    made = replace(made, job=replace(made.job, spec=DIGITS, args={"hidden": 16, "lr": 0.25}))
    path = tmp_path / "digits.profile.json"
    made.dump(path)
    return path


def stored(profile: Path, url: str) -> None:
    """Let the profile have measured this store."""
    known, measured = Profile.load(profile), digits().store
    assert measured is not None
    replace(known, store=replace(measured, url=url)).dump(profile)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What `lambdaml.train` is called with, which then goes no further."""
    calls: list[dict[str, Any]] = []

    def train(job: str, store: Any, **options: Any) -> None:
        calls.append({"job": job, "store": store.url, **options})
        raise UserError("no further")

    monkeypatch.setattr(lambdaml, "train", train)
    return calls


@pytest.mark.parametrize(
    ("options", "length"),
    [
        (("--workers", 4), {"target": TARGET, "epochs": None}),
        (
            ("--workers", 1, "--epochs", 2.5, "--snapshot-every", 7),
            {"target": None, "epochs": 2.5, "snapshot_every": 7},
        ),
        (("--workers", 4, "--epochs", 20, "--algorithm", "local:20,outer=nesterov"), {"epochs": 20}),
        (("--workers", 4, "--codec", "bf16", "--channel", "s3-standard:bandwidth=40MB/s"), {"target": TARGET}),
    ],
)
def test_the_printed_command_parses_back_to_the_plan(
    cli: Cli, profile: Path, asked: list[dict[str, Any]], options: tuple[object, ...], length: dict[str, Any]
) -> None:
    planned = cli("plan", "--profile", profile, "--platform", "local", *SMALL, *options, "--json")
    assert planned.code == 0, planned.err
    best = planned.json["candidates"][planned.json["chosen"]]
    program, verb, *words = shlex.split(planned.json["command"])
    assert (program, verb) == ("lambdaml", "train")
    assert cli("train", *words).err.endswith("no further\n")
    (found,) = asked
    assert Path(found["job"].partition(":")[0]).resolve() == Path(DIGITS.partition(":")[0])
    for name in ("schedule", "workers", "functions", "batch_size", "codec"):
        assert found[name] == best[name], name
    assert found["algorithm"] == best.get("algorithm", "gradient")
    assert found["algorithm"].startswith("local") == ("--algorithm" in options)
    assert best["functions"] == min(2, best["workers"])
    assert {name: found[name] for name in length} == length
    assert found["device"] == "cpu" and found["engine"] is None
    from lambdaml.training.asked import resolve_job

    assert resolve_job(found["job"], found["args"])[0].args == {"hidden": 16, "lr": 0.25}
    assert not Path(found["store"].removeprefix("file://").partition("?")[0]).exists()
    if "s3-standard" in str(options):
        assert "latency=s3-standard" in found["store"] and "bandwidth=40MB/s" in found["store"]
        assert "bucket for the real one" in " ".join(planned.json["remarks"])
    else:
        assert found["store"] == f"file://{Path.cwd()}/runs/digits-1"


def test_the_printed_command_runs_as_planned(cli: Cli, profile: Path) -> None:
    planned = cli("plan", "--profile", profile, "--platform", "local", "--workers", 2, *SMALL, "--epochs", 0.2)
    assert planned.code == 0, planned.err
    lines = planned.out.replace(" \\\n", " ").splitlines()
    (line,) = [line for line in lines if line.startswith("  lambdaml train ")]
    ended = cli(*shlex.split(line)[1:], "--engine", "inline")
    assert ended.code == 0, ended.err
    settings = lambdaml.Run(f"file://{Path.cwd()}/runs/digits-1").settings
    assert (settings.workers, settings.schedule, settings.batch_size) == (2, "bsp", 32)
    assert settings.job.args == {"hidden": 16, "lr": 0.25}


@pytest.mark.parametrize("url", ["s3://bucket/there?region=eu-west-1", "file:///there?latency=5ms"])
def test_a_measured_store_is_the_commands(cli: Cli, profile: Path, url: str) -> None:
    stored(profile, url)
    planned = cli("plan", "--profile", profile, "--platform", "local", "--workers", 2, *SMALL, "--json")
    words = shlex.split(planned.json["command"])
    place, _, query = url.partition("?")
    assert words[words.index("--store") + 1].startswith(f"{place}/digits-")
    assert words[words.index("--store") + 1].endswith(f"?{query}")


def test_a_platform_without_an_engine_is_said_to_have_none(cli: Cli, profile: Path) -> None:
    ended = cli("plan", "--profile", profile, "--platform", "fargate", "--workers", 2, *SMALL)
    assert "\nThere is no engine for fargate yet: this is what it would cost.\n" in ended.out
    assert "lambdaml train" not in ended.out


def test_on_lambda_the_command_names_the_function_that_deploy_makes(cli: Cli, profile: Path) -> None:
    planned = cli("plan", "--profile", profile, "--platform", "lambda-x86:1769", "--workers", 2, *SMALL, "--json").json
    words = shlex.split(planned["command"])
    given = {name: words[words.index(f"--{name}") + 1] for name in ("engine", "function", "memory", "store")}
    assert given.pop("store").startswith("s3://BUCKET/runs/")
    assert given == {"engine": "lambda", "function": "lambdaml", "memory": "1769"}
    assert "--lifetime" not in words  # a function knows how long it has left
    assert any("lambdaml deploy aws" in remark for remark in planned["remarks"])


def test_platforms_whose_functions_are_too_small_for_the_job_are_left_out(cli: Cli, profile: Path) -> None:
    known = Profile.load(profile)
    replace(known, memory=replace(known.memory, base_mb=9000.0)).dump(profile)
    planned = cli("plan", "--profile", profile, "--platform", "local", "--workers", 2, *SMALL, "--json")
    assert planned.code == 0, planned.err
    assert [one["platform"].partition(":")[0] for one in planned.json["elsewhere"]] == ["local", "fargate", "cloud-run"]


def test_the_choice_is_shown_on_every_platform_with_its_engine(
    cli: Cli, profile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = cli("plan", "--profile", profile, "--workers", 2, *SMALL, "--json").json
    found = {one["platform"].partition(":")[0]: one for one in planned["elsewhere"]}
    assert set(found) == set(PLATFORMS.factories) - {"lambdaml-2021"}
    engines = {name: one["engine"] for name, one in found.items() if one["engine"]}
    assert engines == {"local": "local", "spot": "ray", "lambda-arm": "lambda", "lambda-x86": "lambda"}
    best = planned["candidates"][planned["chosen"]]
    assert found["lambda-arm"]["usd"] == best["usd"]
    assert found["managed"]["instances"] == 3 and found["managed"]["usd"] > found["spot"]["usd"]
    assert found["fargate"]["minimum_s"] == 60 and found["batch-spot"]["start_s"] == 600
    assert {one["schedule"] for one in found.values()} == {best["schedule"]}
    monkeypatch.setenv("COLUMNS", "120")
    out = cli("plan", "--profile", profile, "--workers", 2, *SMALL, "--html", "plan.html").out
    assert "1 s, from 60 s, from 3 machines</td>" in Path("plan.html").read_text()
    assert re.search(r"^managed +7 s +90 min  1 s, from 60 s, from 3 machines .*\$.* none$", out, re.MULTILINE)
    assert re.search(r"^lambda-arm:\d+ +7 s +15 min  1 ms .*\$.* lambda$", out, re.MULTILINE)


def test_spot_instances_are_a_ray_cluster(cli: Cli, profile: Path) -> None:
    ended = cli("plan", "--profile", profile, "--platform", "spot", "--workers", 4, *SMALL, "--json").json
    words = shlex.split(ended["command"])
    assert words[words.index("--engine") + 1] == "ray" and words[words.index("--functions") + 1] == "4"
    assert words[words.index("--store") + 1].startswith("s3://BUCKET/")
    assert any("BUCKET" in remark for remark in ended["remarks"])


def test_without_a_choice_there_is_no_command(cli: Cli, profile: Path) -> None:
    ended = cli("plan", "--profile", profile, "--platform", "local", "--workers", 2, *SMALL, "--deadline", "1s")
    assert ended.code == 3 and "lambdaml train" not in ended.out


def test_where_codecs_with_error_feedback_begin_to_be_better_is_printed(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "500")
    coded().dump(tmp_path / "coded.json")
    codecs = ("--codec", "bf16", "--codec", "topk:0.01")
    there = ("--platform", "local", "--channel", "40ms:bandwidth=85MB/s", "--workers", 4, "--minimise", "time")
    out = cli("plan", "--profile", tmp_path / "coded.json", *SMALL, *codecs, *there).out
    (line,) = [line for line in out.splitlines() if "error feedback" in line]
    assert " topk:0.01 is quicker than bf16 from about " in line and line.endswith(" at any latency.")


def test_every_assumption_is_printed(cli: Cli, profile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "500")
    options = ("plan", "--profile", profile, "--workers", 2, *SMALL)
    rows, out = cli(*options, "--json").json["assumptions"], cli(*options).out
    listed = out.partition("\nRests on ")[2]
    assert all(row["what"] in listed for row in rows) and len(listed.splitlines()) >= len(rows)
    assert {row["mark"] for row in rows} == {"measured", "given", "assumed"}


def test_workers_are_no_more_than_lambda_has_room_for_if_it_is_asked(
    cli: Cli, profile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ("plan", "--profile", profile, "--workers", "1..8", *SMALL, "--json")
    with LocalLambda(concurrency=3) as platform:
        found = cli(*given, "--endpoint-url", platform.url).json
    assert max(candidate["workers"] for candidate in found["candidates"]) == 3
    assert "the account may run 3 Lambda functions at a time in us-east-1" in found["remarks"][-1]

    gone = cli(*given, "--endpoint-url", platform.url).json
    assert max(candidate["workers"] for candidate in gone["candidates"]) == 8
    assert re.match(r"how many .* is not known \(the plan assumes enough .*\): cannot ask AWS", gone["remarks"][-1])

    monkeypatch.setattr("lambdaml.deploy.aws.Account", None)
    plain = cli(*given).json
    assert re.match(r"how many .* was not asked \(the plan assumes enough", plain["remarks"][-1])
    assert "how many" not in str(cli(*given, "--platform", "local").json["remarks"])


def test_regions_set_the_number_of_workers_and_their_transfers_are_shown(
    cli: Cli, profile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "500")
    options = ("plan", "--profile", profile, *SMALL, "--channel", "s3-standard", "--codec", "fp32", "--epochs", 50)
    regions = ("--platform", "lambda-arm:1769", "--regions", "us-east-1:1,eu-west-1:1")
    ended = cli(*options, *regions)
    assert ended.code == 0, ended.err
    assert "Transfers between regions, to the one bucket: eu-west-1 to us-east-1 $" in ended.out
    assert "\nfunctions in regions " in ended.out
    for wrong, says in (
        (("--workers", 4), "have 2 functions, but the run has 4"),
        (("--bucket-region", "eu-wst-1"), "did you mean 'eu-west-1'"),
    ):
        refused = cli(*options, *regions, *wrong)
        assert (refused.code, refused.out, len(refused.err.splitlines())) == (2, "", 1)
        assert says in refused.err
