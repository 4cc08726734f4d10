"""Draw the figure of docs/concepts/planning.md: closed forms, the virtual world, and what a real run adds to them.

    python benchmarks/closed_forms.py docs/concepts/closed_forms.svg

The left panel shows a round of 12 MB by LambdaML's formula for scatter-reduce on its S3, the same transfers in the
virtual world, and a round of this project's own `bsp` there. That round computes nothing and overlaps its requests, but
it polls, lists and waits for the slowest, with constant latencies and with those of `s3-standard`. The right panel
shows a message by FMI's formula and in the virtual world.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lambdaml.pages.charts import Axis, Chart, line_chart
from lambdaml.pages.figures import figure
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


def panel(title: str, x: Axis, curves: Mapping[str, Curve]) -> Chart:
    """Return a chart of seconds on logarithmic axes."""
    rows = [{x.field: at, "seconds": found, "curve": name} for name, curve in curves.items() for at, found in curve]
    columns = {"curve": "curve", x.field: x.title, "seconds": "seconds"}
    return line_chart(title, title, rows, x, Axis("seconds", "seconds", "s", "log"), "curve", columns, height=260)


def main() -> None:
    rounds = {workers: scatter_reduce_s("lambdaml-s3", workers, SIZE) for workers in WORKERS}
    messages = {(channel, size): message_s(channel, size) for channel in ("fmi-s3", "fmi-redis") for size in SIZES}
    reduce: dict[str, Curve] = {
        "LambdaML's formula": [(w, closed) for w, (_, closed) in rounds.items()],
        "virtual world, the same transfers": [(w, found) for w, (found, _) in rounds.items()],
        "bsp of this project, constant latency": [(w, bsp_s("lambdaml-s3", w)) for w in WORKERS],
        "bsp of this project, s3-standard": [(w, bsp_s("s3-standard", w)) for w in WORKERS],
    }
    sent: dict[str, Curve] = {}
    for channel in ("fmi-s3", "fmi-redis"):
        both = [(size, *messages[channel, size]) for size in SIZES]
        sent[f"FMI's formula, {channel}"] = [(size, closed) for size, _, closed in both]
        sent[f"virtual world, {channel}"] = [(size, found) for size, found, _ in both]
    for name, curve in {**reduce, **sent}.items():
        print(f"{name:40}" + " ".join(f"{y:8.3f}" for _, y in curve))
    panels = (
        panel("A round of 12 MB", Axis("workers", "workers", kind="log"), reduce),
        panel("A message", Axis("size", "size", "bytes", "log"), sent),
    )
    Path(sys.argv[1]).write_text(figure(panels))


if __name__ == "__main__":
    main()
