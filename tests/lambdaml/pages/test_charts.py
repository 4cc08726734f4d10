"""Charts: their ticks, and what they hand to the script of a page."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambdaml.pages import as_script
from lambdaml.pages.charts import Axis, bar_chart, line_chart, log_ticks, point_chart


@given(st.floats(1e-9, 1e9), st.floats(1.0, 1e6))
def test_a_logarithmic_axis_has_at_least_two_ticks_and_not_too_many(low: float, ratio: float) -> None:
    ticks = log_ticks(low, low * ratio)
    assert 2 <= len(ticks) <= 16
    assert ticks == sorted(ticks)


def test_rows_are_handed_over_as_they_are() -> None:
    rows = [{"at": 1, "value": 0.5, "name": "a"}, {"at": 2, "value": None, "name": "b"}]
    chart = line_chart("t", "a", rows, Axis("at", "at"), Axis("value", "value"), "name", {"at": "at", "value": "value"})
    record = chart.to_dict()
    assert [dict(zip(record["fields"], row)) for row in record["rows"]] == rows


def test_a_script_cannot_be_left_by_what_it_holds() -> None:
    text = as_script({"name": "</script><b>", "none": float("nan")})
    assert "<" not in text
    assert json.loads(text) == {"name": "</script><b>", "none": None}


def test_a_bar_that_is_missing_is_a_cross() -> None:
    rows = [{"s": "0", "model": "a", "slower": 1.0}, {"s": "8", "model": "a", "slower": None}]
    x, y = Axis("s", "s", kind="names"), Axis("slower", "slower")
    chart = bar_chart("t", "a", rows, x, y, "model", {"s": "s", "slower": "slower"}, stacked=False, level=1.0)
    marks = [layer["mark"]["type"] for layer in chart.spec["layer"]]
    assert marks == ["bar", "point", "rule"]


@pytest.mark.parametrize("kind", ["linear", "log"])
def test_points_know_their_kinds(kind: str) -> None:
    rows = [{"x": 1.0, "y": 2.0, "kind": "far"}, {"x": 3.0, "y": 1.0, "kind": "near"}]
    axes = Axis("x", "x", kind=kind), Axis("y", "y", kind=kind)  # type: ignore[arg-type]
    looks = {"far": ("grey", "circle", 10), "near": ("red", "square", 20)}
    chart = point_chart("t", "a", rows, *axes, "kind", looks, {"x": "x"}, path=["near"])
    assert len(chart.spec["layer"]) == 3
