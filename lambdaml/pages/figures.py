"""Charts as SVG files, for pages that run no script, such as the documentation."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from lambdaml.errors import UserError
from lambdaml.pages.charts import Chart

_FONT = "sans-serif"


def figure(charts: Sequence[Chart], width: int = 380, columns: int = 2) -> str:
    """Return an SVG picture of charts side by side, in the colours of a light page.

    Args:
        charts: The charts.
        width: The width of the drawing of each, in pixels.
        columns: The number of charts beside each other.

    Raises:
        UserError: If vl-convert is not installed.
    """
    try:
        import vl_convert
    except ImportError:
        raise UserError("figures need vl-convert: pip install 'lambdaml-runtime[report]'") from None
    views = [
        {**chart.spec, "title": chart.title, "width": width, "data": {"values": list(chart.rows)}} for chart in charts
    ]
    apart = dict.fromkeys(("color", "strokeDash", "shape"), "independent")
    spec = {"concat": views, "columns": columns, "config": _config(), "resolve": {"scale": apart}}
    svg = str(vl_convert.vegalite_to_svg(_plainly_coloured(spec)))
    return svg if svg.endswith("\n") else f"{svg}\n"


def _config() -> dict[str, Any]:
    axis = {"labelColor": "var(--soft)", "titleColor": "var(--soft)", "gridColor": "var(--line)", "tickCount": 5}
    legend = {"orient": "bottom", "labelColor": "var(--ink)", "labelLimit": 320, "columns": 2}
    title = {"anchor": "start", "fontSize": 13}
    return {"background": "var(--paper)", "font": _FONT, "axis": axis, "legend": legend, "title": title}


def _plainly_coloured(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the specification with the colours of a light page in place of the names of CSS variables."""
    style = files("lambdaml.pages").joinpath("templates", "style.css").read_text()
    light = dict(reversed(re.findall(r"(--[\w-]+): (#\w+)", style)))  # the first of each name
    coloured: dict[str, Any] = json.loads(re.sub(r"var\((--[\w-]+)\)", lambda found: light[found[1]], json.dumps(spec)))
    return coloured
