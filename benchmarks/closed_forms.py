"""Draw the figure of docs/concepts/planning.md: closed forms, the virtual world, and what a real run adds to them.

    python benchmarks/closed_forms.py docs/concepts/closed_forms.svg

The left panel shows a round of 12 MB by LambdaML's formula for scatter-reduce on its S3, the same transfers in the
virtual world, and a round of this project's own `bsp` there. That round computes nothing and overlaps its requests, but
it polls, lists and waits for the slowest, with constant latencies and with those of `s3-standard`. The right panel
shows a message by FMI's formula and in the virtual world.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lambdaml.simulation import simulate
from lambdaml.simulation.platform import Platform
from lambdaml.simulation.stub_replica import Costs
from tests.cost.planning.test_closed_forms import message_s, scatter_reduce_s

SIZE = 12_000_000
WORKERS = (2, 3, 4, 6, 8, 12, 16, 24, 32)
SIZES = tuple(round(10 ** (3 + step / 2)) for step in range(10))

Curve = Sequence[tuple[float, float]]


def bsp_s(channel: str, workers: int) -> float:
    """Return the seconds of a round of a `bsp` run."""
    costs = Costs(step_s=1e-6, encode_s=0.0, apply_s=0.0, apply_update_s=0.0, update_bytes=SIZE, snapshot_bytes=SIZE)
    times = [
        simulate(
            workers=workers,
            steps=steps,
            channel=channel,
            platform=Platform.parse("lambda-arm:1769"),
            costs=costs,
            exact=True,
            snapshot_every=10**6,
        ).run.seconds
        for steps in (4, 12)
    ]
    return (times[1] - times[0]) / 8


def panel(left: float, title: str, x_title: str, curves: dict[str, tuple[str, Curve]]) -> list[str]:
    """Draw logarithmic axes. A curve whose name begins with a dot is drawn as dots."""
    width, height, top = 360.0, 260.0, 40.0
    points = [point for _, curve in curves.values() for point in curve]
    x0, x1 = (f(math.log10(x) for x, _ in points) for f in (min, max))
    y0, y1 = math.floor(min(math.log10(y) for _, y in points)), math.ceil(max(math.log10(y) for _, y in points))

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = (math.log10(x) - x0) / (x1 - x0), (math.log10(y) - y0) / (y1 - y0)
        return left + width * across, top + height * (1 - up)

    parts = [f'<text x="{left}" y="20" font-weight="bold">{title}</text>']
    for power in range(y0, y1 + 1):
        _, y = place(10**x0, 10.0**power)
        parts.append(f'<path d="M{left} {y}h{width}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4}" text-anchor="end">{10.0**power:g} s</text>')
    for x in sorted({x for x, _ in points}):
        label = f"{x:g}" if x < 1e3 else f"{x / 1e3:g} KB" if x < 1e6 else f"{x / 1e6:g} MB"
        if x < 1e3 or math.log10(x).is_integer():
            across, _ = place(x, 10.0**y0)
            parts.append(f'<text x="{across}" y="{top + height + 16}" text-anchor="middle">{label}</text>')
    parts.append(f'<text x="{left + width}" y="{top + height + 32}" text-anchor="end">{x_title}</text>')
    for number, (name, (colour, curve)) in enumerate(curves.items()):
        spots = [place(*point) for point in curve]
        if name.startswith("."):
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in spots]
        else:
            line = "L".join(f"{x:.1f} {y:.1f}" for x, y in spots)
            parts.append(f'<path d="M{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        y = top + height + 52 + 16 * number
        parts.append(f'<circle cx="{left + 4}" cy="{y - 4}" r="4" fill="{colour}"/>')
        parts.append(f'<text x="{left + 14}" y="{y}">{name.lstrip(".")}</text>')
    return parts


def main() -> None:
    rounds = {workers: scatter_reduce_s("lambdaml-s3", workers, SIZE) for workers in WORKERS}
    messages = {(channel, size): message_s(channel, size) for channel in ("fmi-s3", "fmi-redis") for size in SIZES}
    reduce = {
        "LambdaML's formula": ("#1f77b4", [(w, closed) for w, (_, closed) in rounds.items()]),
        ".virtual world, the same transfers": ("#1f77b4", [(w, found) for w, (found, _) in rounds.items()]),
        "bsp of this project, constant latency": ("#2ca02c", [(w, bsp_s("lambdaml-s3", w)) for w in WORKERS]),
        "bsp of this project, s3-standard": ("#d62728", [(w, bsp_s("s3-standard", w)) for w in WORKERS]),
    }
    sent = {}
    for channel, colour in (("fmi-s3", "#1f77b4"), ("fmi-redis", "#ff7f0e")):
        both = [(size, *messages[channel, size]) for size in SIZES]
        sent[f"FMI's formula, {channel}"] = (colour, [(size, closed) for size, _, closed in both])
        sent[f".virtual world, {channel}"] = (colour, [(size, found) for size, found, _ in both])
    for name, (_, curve) in {**reduce, **sent}.items():
        print(f"{name.lstrip('.'):40}" + " ".join(f"{y:8.3f}" for _, y in curve))
    parts = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 880 420" font-family="sans-serif" font-size="11">']
    parts.append('<rect width="100%" height="100%" fill="white"/>')
    parts += panel(50, "A round of 12 MB", "workers", reduce) + panel(500, "A message", "size", sent)
    Path(sys.argv[1]).write_text("\n".join([*parts, "</svg>\n"]))


if __name__ == "__main__":
    main()
