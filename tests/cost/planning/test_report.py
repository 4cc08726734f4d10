"""Planned against actual."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

import lambdaml
from lambdaml.errors import UserError
from tests.lambdaml import lab

JOB = f"{Path(lab.__file__)}:Tiny"
PLANNED = {
    "reason": "because",
    "platform": "lambda-arm:1769",
    "channel": "s3-standard",
    "seconds": 10.0,
    "usd": 0.01,
    "steps": 8,
    "step_s": 0.5,
    "group": 2.0,
    "staleness": 0.0,
    "requests": 100,
    "bytes_sent": 1000,
    "bytes_received": 1000,
    "function_seconds": 20.0,
    "invocations": 2,
}


def test_a_planned_run_says_how_far_off_the_plan_was() -> None:
    url = f"memory://{secrets.token_hex(6)}"
    result = lambdaml.train(JOB, url, workers=2, steps=8, planned=PLANNED)
    found = lambdaml.report(url)
    rows = {row.what: row for row in found.comparisons}
    assert rows["optimizer steps"].error == 0 and rows["updates of a step"].error == 0
    assert rows["requests"].actual == sum(result.requests.values())
    assert rows["cost"].actual == found.bill.bill.usd > 0
    assert 0 < rows["time of a step"].actual < result.seconds
    assert found.to_dict()["reason"] == "because"


def test_a_run_that_was_not_planned_has_no_report() -> None:
    url = f"memory://{secrets.token_hex(6)}"
    lambdaml.train(JOB, url, workers=1, steps=2)
    with pytest.raises(UserError, match="not planned"):
        lambdaml.report(url)
