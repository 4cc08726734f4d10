"""The page of a run's influence in a real browser."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lambdaml.influence.measure import ClientInfluence, InfluenceReport
from lambdaml.influence.page import influence_page
from lambdaml.influence.table import influence_about
from tests.browser import Browser, browser, check_page, chromium, numbers

__all__ = ["browser", "chromium"]


def report(truth: bool) -> InfluenceReport:
    clients = []
    for client in range(6):
        change = {"loss": 0.003 - client / 1000, "accuracy": client / 100}
        other = {name: 1.1 * value + 0.0001 for name, value in change.items()}
        clients.append(ClientInfluence(client, 50 + 10 * client, 7, 0.1, change, other if truth else {}))
    metrics = {"loss": 0.5, "accuracy": 0.75}
    return InfluenceReport("memory://run", 100, "fisher", "client", metrics, "loss", True, tuple(clients))


@pytest.mark.parametrize("truth", [True, False])
def test_the_page_has_the_ranking_and_a_chart_for_each_metric(truth: bool, tmp_path: Path, browser: Browser) -> None:
    place = tmp_path / "influence.html"
    place.write_text(influence_page(report(truth)))
    check_page(browser, place)
    page = browser.open(place)
    assert [line[:2] for line in numbers(page, "metric-0")][:2] == [["0", "50"], ["1", "60"]]
    text = place.read_text()
    assert "Client 0 was the most valuable: without it the evaluation loss would be 0.003 higher." in text
    assert ("correlation is 1.0000" in text) == truth


def test_clients_that_are_left_out_already_are_named_and_not_chosen_again() -> None:
    found = replace(report(truth=False), left_out=(4, 5))
    assert influence_about(found).endswith("truncated: client. Left out by then: 4, 5.")
    assert found.lowest(0.25) == [3] and found.lowest(0.5) == [2, 3]
