"""The non-IID study's page in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest

from lambdaml.studies.noniid.page import skew_page
from lambdaml.studies.noniid.plan import SkewPlan
from lambdaml.studies.noniid.table import SkewRow
from tests.browser import Browser, browser, check_page, chromium, numbers

__all__ = ["browser", "chromium"]


def row(algorithm: str, norm: str, skew: int, seed: int) -> SkewRow:
    accuracy = 0.98 - skew / 1000 - seed / 100
    return SkewRow("mlp", algorithm, norm, skew, seed, 800, accuracy, "[0.9, 0.5]", "[1.0, 0.9]", 0.05, "[[800, 0.9]]")


def test_the_page_is_in_order_and_shows_means_over_seeds_and_partitions(tmp_path: Path, browser: Browser) -> None:
    plan = SkewPlan(("mlp",), ("bsp", "fedavg"), ("batch", "none"), (0, 100), seeds=2)
    rows = [row(unit.algorithm, unit.norm, skew, seed) for unit in plan.units() for skew, seed in unit.settings]
    place = tmp_path / "noniid.html"
    place.write_text(skew_page(plan, rows))
    check_page(browser, place)
    page = browser.open(place)
    line = numbers(page, "chart-0")[1]
    assert line[:2] == ["BatchNorm", "100"] and float(line[2]) == pytest.approx(87.5)
    assert [line[:3] for line in numbers(page, "chart-2")][:2] == [["BatchNorm", "0", "90"], ["BatchNorm", "1", "50"]]
