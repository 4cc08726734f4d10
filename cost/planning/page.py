"""A plan as one self-contained HTML page: a chart of cost against time to hover over, all candidates, what it rests on."""

from __future__ import annotations

import html
import json
import math
from typing import TYPE_CHECKING, Any

from lambdaml.cost.planning.explain import money, rough_duration

if TYPE_CHECKING:
    from lambdaml.cost.planning.command import HowTo
    from lambdaml.cost.planning.plan import Plan

WIDTH, HEIGHT, MARGIN = 860, 460, 64


def plan_page(plan: Plan, title: str, how: HowTo | None = None) -> str:
    """The page. It loads nothing from anywhere.

    Args:
        how: to run the choice.
    """
    data = plan.to_dict()
    sentences = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in plan.explanations)
    return _PAGE.format(
        title=html.escape(title),
        reason=html.escape(plan.reason),
        chosen=html.escape(_choice(plan)),
        how="".join(f"<pre>{html.escape(line)}</pre>" for line in how.lines()) if how is not None else "",
        chart=_chart(plan),
        explanations=f"<h2>Why not its neighbours</h2><ul>{sentences}</ul>" if sentences else "",
        candidates=_candidates(plan),
        assumptions=_assumptions(data["assumptions"]),
        planning_s=f"{plan.seconds:.1f}",
        data=json.dumps(data).replace("</", "<\\/"),
    )


def _choice(plan: Plan) -> str:
    return str(plan.choice.candidate) if plan.choice else "No plan keeps what was asked for"


def _chart(plan: Plan) -> str:
    """Points on logarithmic axes: the frontier, the choice, and everything they beat in grey."""
    shown = [(place, found) for place, found in enumerate(plan.candidates) if not found.obstacle]
    if not shown:
        return "<p>No candidate is known to reach the target.</p>"
    across = _Axis([found.seconds for _, found in shown], MARGIN, WIDTH - 20)
    up = _Axis([max(found.usd, 1e-9) for _, found in shown], HEIGHT - MARGIN, 20)
    ticks = [
        f'<line x1="{across.at(tick):.1f}" y1="20" x2="{across.at(tick):.1f}" y2="{HEIGHT - MARGIN}"/>'
        f'<text x="{across.at(tick):.1f}" y="{HEIGHT - MARGIN + 18}" text-anchor="middle">{rough_duration(tick)}</text>'
        for tick in across.ticks()
    ] + [
        f'<line x1="{MARGIN}" y1="{up.at(tick):.1f}" x2="{WIDTH - 20}" y2="{up.at(tick):.1f}"/>'
        f'<text x="{MARGIN - 6}" y="{up.at(tick) + 4:.1f}" text-anchor="end">{money(tick)}</text>'
        for tick in up.ticks()
    ]
    line = " ".join(
        f"{across.at(plan.candidates[place].seconds):.1f},{up.at(max(plan.candidates[place].usd, 1e-9)):.1f}"
        for place in plan.frontier
    )
    points = []
    for place, found in sorted(shown, key=lambda item: (item[0] == plan.chosen, item[0] in plan.frontier)):
        kind = "chosen" if place == plan.chosen else "frontier" if place in plan.frontier else "beaten"
        x, y = across.at(found.seconds), up.at(max(found.usd, 1e-9))
        points.append(
            f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{7 if kind == "chosen" else 4}" data-place="{place}"/>'
        )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Cost against time of all candidates">'
        f'<g class="grid">{"".join(ticks)}</g><polyline points="{line}"/>{"".join(points)}'
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 12}" text-anchor="middle">time to the end</text>'
        f'<text x="16" y="{HEIGHT / 2}" transform="rotate(-90 16 {HEIGHT / 2})" text-anchor="middle">cost</text></svg>'
    )


class _Axis:
    """A logarithmic axis between two places on the page."""

    def __init__(self, values: list[float], begin: float, end: float) -> None:
        self._low, self._high = math.log10(min(values) / 1.15), math.log10(max(values) * 1.15)
        self._begin, self._end = begin, end

    def at(self, value: float) -> float:
        share = (math.log10(value) - self._low) / (self._high - self._low)
        return self._begin + share * (self._end - self._begin)

    def ticks(self) -> list[float]:
        factors = (1, 2, 5) if self._high - self._low < 2 else (1,)
        powers = range(math.floor(self._low), math.ceil(self._high) + 1)
        values = [factor * 10.0**power for power in powers for factor in factors]
        return [value for value in values if self._low <= math.log10(value) <= self._high]


def _candidates(plan: Plan) -> str:
    headings = (
        "", "schedule", "workers", "functions", "batch", "codec", "platform", "store", "steps", "staleness", "time", "9 of 10", "cost",
        "9 of 10 cost", "requests", "obstacle",
    )  # fmt: skip
    rows = []
    for place, found in enumerate(plan.candidates):
        candidate = found.candidate
        mark = "&#10004;" if place == plan.chosen else "&#9670;" if place in plan.frontier else ""
        cells = [
            candidate.schedule, candidate.workers, found.functions or "", candidate.batch_size, candidate.codec, candidate.platform,
            candidate.channel, found.steps or "", f"{found.staleness:.1f}", rough_duration(found.seconds),
            rough_duration(found.p90_seconds), _money(found.usd), _money(found.p90_usd),
            f"{found.requests:,}" if found.requests else "", found.obstacle,
        ]  # fmt: skip
        rows.append(f"<tr data-place='{place}'><td>{mark}</td>{_cells(cells)}</tr>")
    head = "".join(f"<th>{heading}</th>" for heading in headings)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _assumptions(found: list[dict[str, Any]]) -> str:
    rows = [
        f"<tr>{_cells([row['what'], ' '.join((str(row['value']), row['unit'])).strip(), row['mark'], row['source']])}</tr>"
        for row in found
    ]
    head = "<tr><th>what</th><th>value</th><th></th><th>source</th></tr>"
    return f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"


def _cells(values: list[Any]) -> str:
    return "".join(f"<td>{html.escape(str(value))}</td>" for value in values)


def _money(usd: float) -> str:
    return money(usd) if math.isfinite(usd) else ""


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
h1 {{ font-size: 1.5rem }} h2 {{ font-size: 1.1rem; margin-top: 2rem }}
svg {{ width: 100%; height: auto }} svg text {{ font-size: 12px; fill: #555 }}
.grid line {{ stroke: #eee }} polyline {{ fill: none; stroke: #0a7; stroke-width: 1.5 }}
circle.beaten {{ fill: #bbb; fill-opacity: .6 }} circle.frontier {{ fill: #0a7 }} circle.chosen {{ fill: #d40 }}
circle:hover {{ stroke: #222; stroke-width: 2 }}
#tip {{ position: fixed; display: none; background: #222; color: #fff; padding: .4rem .6rem; border-radius: 4px;
  font-size: 13px; pointer-events: none; white-space: pre }}
table {{ border-collapse: collapse; font-size: 13px; width: 100% }} th {{ text-align: left; position: sticky; top: 0;
  background: #fff }} td, th {{ padding: .2rem .5rem; border-bottom: 1px solid #eee }}
tr.lit {{ background: #ffe }} .scroll {{ max-height: 32rem; overflow: auto }}
@media (prefers-color-scheme: dark) {{ body {{ background: #181818; color: #ddd }} th {{ background: #181818 }}
  .grid line {{ stroke: #333 }} td, th {{ border-color: #333 }} tr.lit {{ background: #332 }} }}
</style></head><body>
<h1>{title}</h1><p><strong>{chosen}</strong></p><p>{reason}.</p>{how}
{chart}<div id="tip"></div>
{explanations}
<h2>All candidates</h2><div class="scroll">{candidates}</div>
<h2>What this rests on</h2>{assumptions}
<p>Planned in {planning_s} s. Times and costs are medians; "9 of 10" is what nine of ten runs keep within.</p>
<script type="application/json" id="plan">{data}</script>
<script>
const plan = JSON.parse(document.getElementById("plan").textContent), tip = document.getElementById("tip");
const rows = [...document.querySelectorAll("tr[data-place]")];
for (const circle of document.querySelectorAll("circle")) {{
  const c = plan.candidates[circle.dataset.place];
  circle.addEventListener("mousemove", event => {{
    tip.textContent = `${{c.schedule}}, ${{c.workers}} x ${{c.batch_size}}, ${{c.codec}}\\n${{c.platform}}, ${{c.channel}}\\n` +
      `${{c.seconds.toFixed(1)}} s (9 of 10: ${{c.p90_seconds.toFixed(1)}} s)\\n` +
      `$${{c.usd.toPrecision(3)}} (9 of 10: $${{c.p90_usd.toPrecision(3)}})\\n` +
      `${{c.steps}} steps, staleness ${{c.staleness.toFixed(1)}}, ${{c.requests}} requests`;
    tip.style.display = "block"; tip.style.left = event.clientX + 14 + "px"; tip.style.top = event.clientY + 14 + "px";
  }});
  circle.addEventListener("mouseleave", () => tip.style.display = "none");
  circle.addEventListener("click", () => {{
    rows.forEach(row => row.classList.toggle("lit", row.dataset.place === circle.dataset.place));
    rows.find(row => row.dataset.place === circle.dataset.place)?.scrollIntoView({{block: "center"}});
  }});
}}
</script></body></html>
"""
