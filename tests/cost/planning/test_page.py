"""The plan's page in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest

from lambdaml.cost.planning.candidates import SearchSpace
from lambdaml.cost.planning.objective import Objective
from lambdaml.cost.planning.page import plan_page
from lambdaml.cost.planning.plan import Plan, make_plan
from tests.browser import Browser, browser, check_page, chromium, numbers
from tests.cost.profiles import digits

__all__ = ["browser", "chromium"]


@pytest.fixture(scope="module")
def plan() -> Plan:
    space = SearchSpace(workers=(1, 8), schedules=("bsp", "asp"), platforms=("lambda-arm:1769", "local"))
    return make_plan(digits(), Objective("accuracy>=0.95", space=space))


@pytest.fixture(scope="module")
def page(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("page") / "plan.html"
    place.write_text(plan_page(plan, "Plan for <digits>"))
    return place


def test_the_page_is_in_order_at_every_size(page: Path, browser: Browser) -> None:
    check_page(browser, page)


def test_every_number_is_the_plans(plan: Plan, page: Path, browser: Browser) -> None:
    shown = browser.open(page)
    ends = [(place, found) for place, found in enumerate(plan.candidates) if not found.obstacle]
    found = numbers(shown, "candidates")
    assert len(found) == len(ends)
    for row, (place, estimate) in zip(found, ends, strict=True):
        assert int(row[0]) == place + 1
        assert float(row[9]) == pytest.approx(estimate.seconds, rel=1e-5)
        assert float(row[11]) == pytest.approx(estimate.usd, rel=1e-5)


def test_all_candidates_are_shown_when_asked_for_and_can_be_sorted(plan: Plan, page: Path, browser: Browser) -> None:
    shown = browser.open(page)
    rows = shown.locator("#all tbody tr:visible")
    assert rows.count() == min(25, len(plan.candidates))
    if len(plan.candidates) > 25:
        shown.locator("[data-all=all]").press("Enter")
    assert rows.count() == len(plan.candidates)
    shown.locator("#all th button", has_text="requests").press("Enter")
    asked = [
        int(text.replace(",", "")) for text in shown.locator("#all td[data-label=requests]").all_inner_texts() if text
    ]
    assert asked == sorted(asked)
