"""The study as one self-contained HTML page with figures, the theory beside the experiment, and the table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape

from lambdaml.studies.staleness import charts
from lambdaml.studies.staleness.plan import StudyPlan
from lambdaml.studies.staleness.table import Bar, StudyRow, bars
from lambdaml.studies.staleness.theory import Theorem

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1180px;margin:2em auto;padding:0 1em;color:#222;background:#fff}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(430px,1fr));gap:1em}
figure{margin:0}svg{width:100%;height:auto}svg text{font-size:11px;fill:#444}h3{margin:.5em 0 0}
.level{stroke:#ddd}.one{stroke:#222;stroke-dasharray:2 3}.spread{stroke:#222;stroke-width:1.2;pointer-events:none}
circle.mark{fill:transparent}.mark:hover{opacity:.7}circle.mark:hover{fill:#222}.axis{margin:0;font-size:12px;color:#555}
.keys{margin:0;font-size:12px}.keys span{margin-right:1em}.keys i{display:inline-block;width:.8em;height:.8em;margin-right:.3em}
table{border-collapse:collapse;font-size:13px}td,th{padding:.15em .7em;text-align:right;border-bottom:1px solid #eee}
td:first-child,td:nth-child(2),th:first-child,th:nth-child(2){text-align:left}
#says{position:fixed;display:none;background:#222;color:#fff;padding:.2em .6em;border-radius:4px;font-size:12px;
pointer-events:none;white-space:pre}
"""

_SCRIPT = """
const box=document.getElementById('says');
document.addEventListener('mousemove',event=>{const says=event.target.dataset&&event.target.closest('[data-says]');
if(!says){box.style.display='none';return}
box.textContent=says.dataset.says;box.style.display='block';
box.style.left=Math.min(event.clientX+14,innerWidth-box.offsetWidth-8)+'px';box.style.top=(event.clientY+14)+'px'});
"""

_ABOUT = """\
<p>An experiment after Dai, Zhou, Dong, Zhang and Xing, <i>Toward Understanding the Impact of Staleness in Distributed
Machine Learning</i> (ICLR 2019, arXiv 1810.03264). Point at a mark for its numbers. Bars are means over seeds of the
ratio to the same seed at s = 0, and the lines on them standard deviations.</p>"""

_ABOUT_THEORY = """\
<p>SGD with one stale gradient a step (delay uniform on s values) and the theorem's step size
η<sub>k</sub> = μ / (s L √k). Its bound on the least squared gradient norm up to T:
(s L (F(x<sub>0</sub>) − inf F) / μ² + σ² log T / s) / √T. μ (gradient coherence), L and σ² are measured along the path,
so the bound is an estimate; where μ is not above 0 the theorem says nothing, and the step takes 0.1 for it. The formulas
are recalled from the paper.</p>"""

_RATIO = "batches to the target, relative to s = 0 (cross: never)"


def study_page(plan: StudyPlan, rows: Sequence[StudyRow], theorems: Sequence[Theorem]) -> str:
    """Return the page as HTML."""
    found = bars(rows)
    parts = [
        "<h1>What staleness does to learning</h1>",
        f"<p>{escape(_setting(plan))}</p>",
        _ABOUT,
    ]
    for workers in plan.workers:
        mine = [bar for bar in found if bar.workers == workers]
        title = f" ({workers} workers)" if len(plan.workers) > 1 else ""
        parts += _figures(f"By algorithm{title}", mine, "algorithm", "model")
        parts += _figures(f"By model{title}", mine, "model", "algorithm")
    if len(plan.workers) > 1:
        parts += _by_workers(found)
    parts += _curves(rows)
    parts += _theory(theorems)
    parts += ["<h2>The table</h2>", _table(found)]
    body = "\n".join(parts)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Staleness study</title>'
        f"<style>{_STYLE}</style></head><body>{body}<div id='says'></div><script>{_SCRIPT}</script></body></html>\n"
    )


def _setting(plan: StudyPlan) -> str:
    workers = ", ".join(map(str, plan.workers))
    return (
        f"{workers} workers, each with its own cache; delays {plan.delays}; {plan.seeds} seeds; data: {plan.data}; given up "
        f"after {plan.longest:g} times the iterations of s = 0."
    )


def _figures(title: str, found: Sequence[Bar], one: str, other: str) -> list[str]:
    """Yield a chart for each value of one attribute: s is on the axis, and each value of the other has a colour."""
    parts = [f"<h2>{escape(title)}</h2>", '<div class="figures">']
    for value in dict.fromkeys(str(getattr(bar, one)) for bar in found):
        groups: dict[str, dict[str, charts.BarShape]] = {}
        for bar in found:
            if str(getattr(bar, one)) == value:
                groups.setdefault(f"s={bar.staleness}", {})[str(getattr(bar, other))] = _mark(bar)
        ordered = dict(sorted(groups.items(), key=lambda group: int(group[0][2:])))
        parts.append(f"<div><h3>{escape(value)}</h3>{charts.bar_chart(ordered, _RATIO)}</div>")
    return [*parts, "</div>"]


def _by_workers(found: Sequence[Bar]) -> list[str]:
    parts = ["<h2>By number of workers</h2>", '<div class="figures">']
    largest = max(bar.staleness for bar in found)
    for algorithm in dict.fromkeys(bar.algorithm for bar in found):
        groups: dict[str, dict[str, charts.BarShape]] = {}
        for bar in found:
            if bar.algorithm == algorithm and bar.staleness == largest:
                groups.setdefault(bar.model, {})[f"{bar.workers} workers"] = _mark(bar)
        parts.append(f"<div><h3>{escape(algorithm)}, s = {largest}</h3>{charts.bar_chart(groups, _RATIO)}</div>")
    return [*parts, "</div>"]


def _mark(bar: Bar) -> charts.BarShape:
    says = f"{bar.model} {bar.algorithm}, s = {bar.staleness}\n"
    if bar.slower is None or bar.batches is None:
        return None, None, f"{says}never: none of {bar.seeds} seeds met the target"
    spread = f" ± {bar.spread:.2f}" if bar.spread is not None else ""
    return (
        bar.slower,
        bar.spread,
        f"{says}{bar.slower:.2f}{spread} x, {bar.batches:.0f} batches, {bar.met} of {bar.seeds} seeds",
    )


def _curves(rows: Sequence[StudyRow]) -> list[str]:
    """Draw the log-likelihood curves of LDA for the first seed, as in the paper."""
    parts = []
    for workers in dict.fromkeys(row.workers for row in rows if row.model == "lda"):
        curves = {
            f"s={row.staleness}": [(float(at) / 10, float(quality)) for at, quality in json.loads(row.curve)]
            for row in rows
            if row.model == "lda" and row.seed == 0 and row.workers == workers
        }
        drawn = charts.lines(curves, "sweeps", "log-likelihood of a token", logarithmic=False)
        parts.append(f"<h2>LDA, {workers} workers</h2>{drawn}")
    return parts


def _theory(theorems: Sequence[Theorem]) -> list[str]:
    if not theorems:
        return []
    parts = [
        "<h2>The theory beside an experiment</h2>",
        _ABOUT_THEORY,
        '<div class="figures">',
    ]
    for model in dict.fromkeys(theorem.model for theorem in theorems):
        mine = [theorem for theorem in theorems if theorem.model == model]
        curves: dict[str, Sequence[tuple[float, float]]] = {}
        for theorem in mine:
            curves[f"s={theorem.s}"] = theorem.measured
            if theorem.bound:
                curves[f"s={theorem.s} (bound)"] = theorem.bound
        first = mine[0].measured[0][1]
        curves["1/√T (guide)"] = [(at, first / at**0.5) for at, _ in mine[0].measured]
        said = "; ".join(
            f"s={theorem.s}: μ {theorem.coherence:.2g}, L {theorem.smoothness:.3g}, σ² {theorem.variance:.3g}"
            for theorem in mine
        )
        drawn = charts.lines(curves, "T, steps", "least |∇F|² up to T", logarithmic=True)
        parts.append(f"<div><h3>{escape(model)}</h3>{drawn}<p class='axis'>{escape(said)}</p></div>")
    return [*parts, "</div>"]


def _table(found: Sequence[Bar]) -> str:
    head = "<tr><th>model<th>algorithm<th>workers<th>s<th>relative<th>± std<th>batches<th>seeds that met it</tr>"
    lines = []
    for bar in found:
        numbers = [bar.slower, bar.spread, bar.batches]
        shown = [
            "never" if bar.slower is None else f"{bar.slower:.2f}",
            *("" if v is None else f"{v:.4g}" for v in numbers[1:]),
        ]
        cells = [
            escape(bar.model),
            escape(bar.algorithm),
            str(bar.workers),
            str(bar.staleness),
            *shown,
            f"{bar.met} of {bar.seeds}",
        ]
        lines.append("<tr>" + "".join(f"<td>{cell}" for cell in cells) + "</tr>")
    return f"<table>{head}{''.join(lines)}</table>"
