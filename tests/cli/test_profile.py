"""Profiling from the command line: the screen, the file, JSON, what takes it up, and mistakes."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest

import lambdaml
from lambdaml.cli.profile import profile
from lambdaml.cost.profiling.measure import SECONDS
from lambdaml.cost.profiling.profile import Profile
from tests.cli.conftest import DIGITS, Cli
from tests.cost.profiles import digits

QUICK = ("--seconds", 1, "--set", "hidden=8")


@pytest.fixture(autouse=True)
def wide(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a line of the screen is a line of text; tests/cli/test_width.py is about narrow ones."""
    monkeypatch.setenv("COLUMNS", "200")


def test_one_screen_says_what_was_found_and_what_it_took(cli: Cli) -> None:
    options = ("--store", "memory://profile", "--target", "accuracy>=0.5", "--workers-hint", 1)
    ended = cli("profile", DIGITS, *QUICK, *options)
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    facts = {line.split()[0]: line for line in lines[: lines.index("")]}
    assert set(facts) == set("job machine gradient step sizes memory noise coherence this".split()), ended.out
    assert "1,437 samples, batch 32, 610 parameters" in facts["job"]
    assert " a sample, fits within " in facts["gradient"]
    assert " MB with a batch of 32; in functions up to 256 MB of updates beside" in facts["memory"]
    assert " gradients, " in facts["this"] and " requests, " in facts["this"]
    headings = [
        line.split()[0] for line in lines if line.split()[:1] and line.split()[0] in ("batch", "codec", "request")
    ]
    assert headings == ["batch", "codec", "request", "codec"], "the last are pilots"
    assert "steps to accuracy>=0.5" in lines
    assert lines[-1] == "kept in digits.profile.json"
    assert max(map(len, lines)) < 160
    kept = Profile.load("digits.profile.json")
    assert (kept.job.args, kept.target, kept.store is not None) == ({"hidden": 8}, "accuracy>=0.5", True)


def test_json_is_the_file_and_a_simulation_takes_it(cli: Cli) -> None:
    ended = cli("profile", DIGITS, *QUICK, "--codec", "topk:0.5", "--codec", "bf16", "--json", "--out", "mine.json")
    assert ended.code == 0, ended.err
    assert list(ended.json["codecs"]) == ["fp32", "bf16", "topk:0.5"]
    assert ended.json == json.loads(Path("mine.json").read_text())
    assert ended.json["store"] is None and ended.json["pilot"] == []
    few = ("--workers", 2, "--updates", 8, "--platform", "local", "--channel", "redis")
    result = cli("simulate", *few, "--profile", "mine.json", "--codec", "bf16", "--json")
    assert result.code == 0, result.err
    assert result.json["modelled"]["costs"]["update_bytes"] == ended.json["codecs"]["bf16"]["update_bytes"]


def test_options_have_the_defaults_of_the_library() -> None:
    mine, theirs = inspect.signature(profile).parameters, inspect.signature(lambdaml.profile).parameters
    assert mine["seconds"].default == theirs["seconds"].default == SECONDS
    assert mine["workers_hint"].default == theirs["workers"].default
    assert mine["seed"].default == theirs["seed"].default


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nowhere.py",), "there is no file nowhere.py"),
        ((DIGITS, "--set", "lr"), "--set lr: write KEY=VALUE"),
        ((DIGITS, "--target", "accuracy"), "a target looks like 'accuracy>=0.95'"),
        ((DIGITS, "--target", "f1>=1"), "the job reports accuracy, loss"),
        ((DIGITS, "--codec", "topk:0"), "density must be above 0 and at most 1"),
        ((DIGITS, "--seconds", "0"), "Invalid value for '--seconds'"),
        ((DIGITS, "--out", "nowhere/p.json"), "there is no folder nowhere"),
        ((DIGITS, "--store", "ftp://x"), "ftp:// is no store we know"),
    ],
)
def test_a_mistake_is_one_line(arguments: tuple[str, ...], says: str, cli: Cli) -> None:
    ended = cli("profile", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("error: ") and says in ended.err.splitlines()[0]
    assert not list(Path().glob("*.json"))


def test_a_profile_that_is_damaged_is_told_by_its_field(cli: Cli) -> None:
    digits().dump("p.json")
    record = json.loads(Path("p.json").read_text())
    del record["codecs"]
    Path("p.json").write_text(json.dumps(record))
    ended = cli("simulate", "--profile", "p.json")
    assert (ended.code, ended.err) == (
        2,
        "error: p.json: codecs: Field required (it is " + ended.err.partition("(it is ")[2],
    )
