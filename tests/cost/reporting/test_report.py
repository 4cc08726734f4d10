"""The report of a run: what it says is what the log, the traces and the bill say; its page in a real browser."""

from __future__ import annotations

import secrets
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer

import lambdaml
from lambdaml.cli._app import app
from lambdaml.cost.reporting.page import CURVE_POINTS, report_page, thinned_curve
from lambdaml.cost.reporting.report import CurvePoint, RunReport
from lambdaml.traces.recording import Recording
from tests.browser import Browser, browser, check_page, chromium, numbers
from tests.lambdaml import lab

__all__ = ["browser", "chromium"]

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


@pytest.fixture(scope="module")
def run() -> Recording:
    url = f"memory://{secrets.token_hex(6)}"
    lambdaml.train(JOB, url, workers=3, steps=40, schedule="asp", engine="inline", functions=2)
    return Recording(url)


@pytest.fixture(scope="module")
def found(run: Recording) -> RunReport:
    return lambdaml.report(run, platform="lambda-arm:1769", channel="s3-standard")


def test_a_run_that_was_not_planned_is_compared_with_nothing(found: RunReport) -> None:
    assert (found.reason, found.comparisons) == ("", ())
    assert len(found.verdict) == 3 and all(sentence.endswith(".") for sentence in found.verdict)
    assert "120 updates" in found.verdict[1]


def test_the_curve_has_the_losses_and_the_samples_of_the_trace_and_ends_at_the_whole_bill(
    run: Recording, found: RunReport
) -> None:
    assert [point.version for point in found.curve] == list(range(1, 121))
    by_version = {row["version"]: row for row in run.rows}
    assert all(point.loss == by_version[point.version]["loss"] for point in found.curve)
    assert found.curve[-1].samples == sum(row["samples"] for row in run.rows) == found.summary.samples
    usd = [point.usd for point in found.curve]
    assert usd == sorted(usd) and usd[-1] == pytest.approx(found.bill.bill.usd)


def test_a_function_does_one_thing_at_a_time_and_all_of_its_updates_are_counted(found: RunReport) -> None:
    assert sum(life.updates for life in found.functions) == 120
    for life in found.functions:
        assert not life.died and life.asked_s <= life.began_s <= life.ended_s
        assert all(one.end_s <= other.begin_s for one, other in pairwise(life.spans))


def test_the_command_makes_the_same_run_again(found: RunReport) -> None:
    words = shlex.split(found.reproduce)
    assert words[:2] == ["lambdaml", "train"] and words[2].endswith("lab.py:Tiny")
    group: Any = typer.main.get_command(app)
    asked = group.commands["train"].make_context("train", words[2:]).params
    assert (asked["workers"], asked["steps"], asked["schedule"]) == (3, 40, "asp")


def test_a_curve_is_thinned_to_means_over_equal_numbers_of_versions() -> None:
    curve = [
        CurvePoint(version, version, float(version), 0.0, float(version)) for version in range(1, 2 * CURVE_POINTS + 1)
    ]
    thin = list(thinned_curve(curve))
    assert len(thin) == CURVE_POINTS
    assert (thin[0].version, thin[0].loss) == (2, 1.5)


def test_the_page_is_in_order_at_every_size(found: RunReport, tmp_path: Path, browser: Browser) -> None:
    place = tmp_path / "report.html"
    place.write_text(report_page([found]))
    check_page(browser, place)


def test_every_number_on_the_page_is_the_traces(
    run: Recording, found: RunReport, tmp_path: Path, browser: Browser
) -> None:
    place = tmp_path / "report.html"
    place.write_text(report_page([found]))
    page = browser.open(place)
    losses = numbers(page, "loss")
    rows = {row["version"]: row for row in run.rows}
    assert len(losses) == len(rows)
    for _, version, samples, seconds, _, loss in losses:
        row = rows[int(version)]
        assert float(loss) == pytest.approx(row["loss"], rel=1e-5)
        assert float(seconds) == pytest.approx(row["committed_s"], rel=1e-5)
        assert int(samples) == sum(each["samples"] for each in run.rows if each["version"] <= int(version))
    counted = {name: int(updates) for name, updates in numbers(page, "stale-counts")}
    assert sum(counted.values()) == 120
    requests = {kind: int(count) for kind, count in numbers(page, "requests")}
    assert requests == {kind: count for kind, count in found.bill.used.requests.items() if count}
    seconds = {row[0]: float(row[1]) for row in numbers(page, "phases")}
    assert sum(seconds.values()) == pytest.approx(found.bill.function_seconds, rel=1e-4)


def test_the_timeline_is_zoomed_by_keys_and_the_axis_is_chosen(
    found: RunReport, tmp_path: Path, browser: Browser
) -> None:
    place = tmp_path / "report.html"
    place.write_text(report_page([found]))
    page = browser.open(place)
    whole = page.evaluate("[views.timeline.signal('begin'), views.timeline.signal('end')]")
    page.locator("[data-zoom=in]").press("Enter")
    page.wait_for_function("views.timeline.signal('begin') > " + str(whole[0]))
    page.locator("[data-zoom=all]").press("Enter")
    page.wait_for_function(f"views.timeline.signal('begin') === {whole[0]}")
    page.locator("figure[data-chart=loss] select").select_option(label="time")
    page.wait_for_selector("figure[data-chart=loss] svg >> text=time since the beginning")
    assert browser.complaints == []


def test_runs_side_by_side_share_their_charts(found: RunReport, tmp_path: Path, browser: Browser) -> None:
    other = lambdaml.report(trained_bsp())
    place = tmp_path / "both.html"
    place.write_text(report_page([found, other]))
    check_page(browser, place)
    page = browser.open(place)
    assert len({row[0] for row in numbers(page, "loss")}) == 2
    assert page.locator("#beside tbody tr").count() == 2


def trained_bsp() -> str:
    url = f"memory://{secrets.token_hex(6)}"
    lambdaml.train(JOB, url, workers=2, steps=8, engine="inline")
    return url
