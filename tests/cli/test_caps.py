"""What a run may spend, from the command line."""

from __future__ import annotations

import pytest

from lambdaml.cli._caps import caps, seconds
from lambdaml.errors import UserError
from tests.cli.conftest import DIGITS, Cli

RUN = ("train", DIGITS, "--engine", "inline", "--steps", 60, "--workers", 2, "--functions", 2, "--store", "here")


def test_a_capped_run_says_why_it_stopped_and_can_be_resumed(cli: Cli) -> None:
    ended = cli(*RUN, "--max-requests", 300)
    assert ended.code == 1
    assert ended.err.startswith("error: one more round would bring it to ")
    assert " of 300 requests. The run has stopped at version " in ended.err
    assert "resume it with a higher cap" in ended.err
    assert ended.err.count("\n") == 1
    assert cli("resume", "here", "--engine", "inline", "--max-requests", "3e2").code == 1
    ended = cli("resume", "here", "--engine", "inline", "--max-requests", "1e4", "--deadline", "1h")
    assert ended.code == 0, ended.err
    assert cli("verify", "here").code == 0


def test_a_budget_stops_a_run_billed_as_if_elsewhere(cli: Cli) -> None:
    ended = cli(*RUN, "--budget", 0.0008, "--as", "lambda-arm:1769", "--store-as", "s3-standard")
    assert ended.code == 1
    assert " of $0.000800. The run has stopped at version " in ended.err


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--budget", 1), "--budget: say what functions cost with --as"),
        (("--budget", 1, "--as", "local"), "a budget makes no sense: neither functions on local nor requests to disk"),
        (("--budget", 1, "--as", "lamda-arm"), "there is no platform 'lamda-arm' (did you mean 'lambda-arm'"),
        (("--budget", 0, "--as", "lambda-arm:1769"), "budget_usd: must be more than 0"),
        (("--as", "lambda-arm"), "--as says what a --budget is spent on"),
        (("--deadline", "soon"), "'soon' is no time: write 90s, 20m or 1h30m"),
        (("--max-requests", -1), "max_requests: must be more than 0"),
    ],
)
def test_a_cap_that_means_nothing_is_refused_before_anything_is_written(
    cli: Cli, options: tuple[object, ...], complaint: str
) -> None:
    ended = cli(*RUN, *options)
    assert ended.code == 2
    assert complaint in ended.err
    assert cli("status", "here").code == 2


@pytest.mark.parametrize(
    ("text", "expected"), [("90", 90.0), ("90s", 90.0), ("20m", 1200.0), ("1h30m", 5400.0), ("1.5h", 5400.0)]
)
def test_times_are_written_as_people_write_them(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "m", "20 minutes", "-5s"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="is no time"):
        seconds(text)


def test_s3_is_billed_as_what_it_is_unless_told_otherwise() -> None:
    made = caps("s3://bucket/run", 1.0, None, None, "local", None)
    assert made is not None and made.tariff is not None
    with pytest.raises(UserError, match="requests to disk cost"):
        caps("s3://bucket/run?endpoint=http://127.0.0.1:1", 1.0, None, None, "local", None)
