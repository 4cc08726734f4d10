"""A page that shows a run while it goes on, and brings itself up to date.

The page is the template `cost/templates/watch.html`. It asks for `LIVE` every few seconds, which has its changing part as
HTML and its charts as data.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from lambdaml.pages import as_script, fragment, render
from lambdaml.pages.charts import Axis, Chart, line_chart
from lambdaml.storage.url import as_typed
from lambdaml.traces.seen import Curve, Seen

LIVE = "/picture.json"
"""The path of what changes."""

POLL_S = 2.0
"""A page asks for what has changed this often, in seconds."""

_PACKAGE = "lambdaml.cost"


def live_page(seen: Seen, facts: Sequence[tuple[str, str]], stall: str) -> str:
    """Return the page, as it is now.

    Args:
        seen: The run, as far as it was seen.
        facts: The names of what is known in words, and those words.
        stall: A sentence that says that nothing moves, or "".

    Raises:
        UserError: If the packages that draw charts are not installed.
    """
    given = {"place": as_typed(seen.run), "seen": seen, "facts": facts, "stall": stall, "live": LIVE, "poll_s": POLL_S}
    return render("watch.html", _PACKAGE, charts=_charts(seen), **given)


def live_part(seen: Seen, facts: Sequence[tuple[str, str]], stall: str, more: dict[str, Any]) -> str:
    """Return what changes as JSON: `html`, `charts`, `over`, and the whole picture as `picture`.

    Args:
        seen, facts, stall: The same as for `live_page`.
        more: The picture in plain values.
    """
    html = fragment("watching.html", _PACKAGE, seen=seen, facts=facts, stall=stall)
    charts = {name: chart.to_dict() for name, chart in _charts(seen).items()}
    return as_script({"html": html, "charts": charts, "over": seen.over, "picture": more})


def _charts(seen: Seen) -> dict[str, Chart]:
    losses = {"training loss": seen.loss, "evaluation loss": seen.metrics.get("loss", ())}
    found = {"losses": _chart("Loss by version", losses)}
    for number, (name, curve) in enumerate(seen.metrics.items()):
        if name != "loss":
            found[f"metric-{number}"] = _chart(f"{name} by version", {name: curve})
    return {name: chart for name, chart in found.items() if chart is not None}


def _chart(title: str, curves: dict[str, Curve]) -> Chart | None:
    rows = list(_rows(curves))
    if not rows:
        return None
    about = f"{', '.join(dict.fromkeys(row['curve'] for row in rows))}: {len(rows)} points over versions."
    axes = Axis("version", "version"), Axis("value", "value")
    return line_chart(title, about, rows, *axes, "curve", {"curve": "curve", "version": "version", "value": "value"})


def _rows(curves: dict[str, Curve]) -> Iterable[dict[str, Any]]:
    for name, curve in curves.items():
        yield from ({"curve": name, "version": version, "value": value} for version, value in curve)
