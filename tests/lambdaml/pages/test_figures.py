"""Charts as SVG files."""

from __future__ import annotations

from xml.etree import ElementTree

from lambdaml.pages.charts import Axis, line_chart
from lambdaml.pages.figures import figure


def test_a_figure_is_svg_with_its_own_colours_and_every_title() -> None:
    rows = [{"at": at, "value": at**2, "name": name} for name in ("a", "b") for at in (1, 2, 3)]
    columns = {"name": "name", "at": "at", "value": "value"}
    charts = [
        line_chart(title, title, rows, Axis("at", "at"), Axis("value", "value", kind="log"), "name", columns)
        for title in ("One <title>", "Another")
    ]
    svg = figure(charts)
    texts = [text.text for text in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    assert {"One <title>", "Another", "a", "b"} <= set(texts)
    assert "var(" not in svg
