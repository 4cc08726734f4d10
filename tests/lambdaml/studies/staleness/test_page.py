"""The study's page in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest

from lambdaml.studies.staleness.page import study_page
from lambdaml.studies.staleness.plan import StudyPlan
from lambdaml.studies.staleness.table import StudyRow
from lambdaml.studies.staleness.theory import Theorem
from tests.browser import Browser, browser, check_page, chromium, numbers

__all__ = ["browser", "chromium"]


def row(model: str, algorithm: str, s: int, seed: int, iterations: int | None) -> StudyRow:
    curve = "[[10, -5.0], [20, -4.0]]" if model == "lda" else "[]"
    return StudyRow(model, algorithm, 4, "categorical", "bundled", s, seed, 0.1, 0.9, 900, iterations, 900, curve)


def test_the_page_is_in_order_and_shows_bars_that_are_missing(tmp_path: Path, browser: Browser) -> None:
    plan = StudyPlan(("mlr", "lda"), ("sgd", "adam"), (0, 8), (4,), seeds=2)
    rows = [
        row("mlr", name, s, seed, 100 + 50 * s + seed) for name in ("sgd", "adam") for s in (0, 8) for seed in (0, 1)
    ]
    rows += [row("lda", "gibbs", s, seed, None if s else 90) for s in (0, 8) for seed in (0, 1)]
    curve = [(1, 1.0), (10, 0.2), (100, 0.05)]
    bound = [(at, 9 * value) for at, value in curve]
    theorems = [Theorem("mlr", s, 1.0, 2.0, 0.1, curve, bound) for s in (1, 8)]
    place = tmp_path / "study.html"
    place.write_text(study_page(plan, rows, theorems))
    check_page(browser, place)
    page = browser.open(place)
    mlr = numbers(page, "chart-0")
    assert [line[3] for line in mlr] == ["0", "8"]
    assert float(mlr[1][4]) == pytest.approx((500 / 100 + 501 / 101) / 2, rel=1e-5)
