"""Compare runs whose workers remember with runs whose workers do not: what memory of one model's size costs.

    python benchmarks/memory_cost.py

`bsp` on file://, two functions of one worker each, a stack of square layers with a tenth of a million, one million and
ten million parameters. Runs with and without error feedback take turns. With `fp32` everything is applied, so the
memory is the update that has no fate yet; with `bf16` a residual of the model's size stays, and its digest goes into
every update. Measured is the time from one log entry to the next, without the first ones; the ratio is that of two
runs that follow each other, and needs to be at most 1.1.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median

import lambdaml
from lambdaml.events import Event

JOB = f"{Path(__file__).parent / 'jobs.py'}:Stack"
SIZES = {1e5: 120, 1e6: 60, 1e7: 20}
"""The number of steps of a run, by the number of parameters."""

WARM = 5
NEEDED = 1.1


@dataclass(slots=True)
class Watch:
    """A watcher of a run that notes the time of every log entry, and the CPU seconds of the functions until then."""

    pids: list[int] = field(default_factory=list)
    stamps: list[tuple[float, float]] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        if event.event == "started" and event.pid is not None:
            self.pids.append(event.pid)
        if event.event == "commit":
            self.stamps.append((time.perf_counter(), sum(map(cpu_s, self.pids))))

    def step(self) -> tuple[float, float]:
        """Return the seconds of a step, the median, and the CPU seconds of all functions for it, the mean."""
        times = [moment for moment, _ in self.stamps[WARM:]]
        spent = [cpu for _, cpu in self.stamps[WARM : -2 * WARM]]  # before the first function has ended
        return median(after - before for before, after in pairwise(times)), (spent[-1] - spent[0]) / (len(spent) - 1)


def cpu_s(pid: int) -> float:
    """Return the CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split() if Path(f"/proc/{pid}").exists() else []
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def step_s(url: str, parameters: float, steps: int, codec: str, feedback: float, batch: int) -> tuple[float, float]:
    """Return the seconds and the CPU seconds of a step of one run."""
    watch = Watch()
    lambdaml.train(
        JOB,
        url,
        workers=2,
        functions=2,
        steps=steps,
        codec=codec,
        error_feedback=feedback,
        batch_size=batch,
        args={"parameters": parameters},
        snapshot_every=10**6,
        on_event=watch,
    )
    return watch.step()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--parameters", type=float, choices=SIZES, action="append", help="only this size")
    parser.add_argument("--codec", choices=("fp32", "bf16"), action="append", help="only this codec")
    asked = parser.parse_args()
    print("| parameters, codec | ms a step, without, with | ratio, each | CPU ms a step | ratio, each |")
    print("|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for size in asked.parameters or SIZES:
            for codec in asked.codec or ("fp32", "bf16"):
                found: list[list[tuple[float, float]]] = [[], []]
                for number in range(2 * asked.pairs):
                    second = (number + number // 2) % 2  # without, with, with, without
                    url = f"file://{folder}/{codec}-{size:g}-{number}"
                    found[second].append(step_s(url, size, SIZES[size], codec, float(second), asked.batch))
                    shutil.rmtree(url.removeprefix("file://"))
                cells = [cell([one[kind] for one in found[0]], [one[kind] for one in found[1]]) for kind in (0, 1)]
                print(f"| {size:,.0f}, {codec} | {' | '.join(cells)} |", flush=True)
    print(f"\n{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, batch {asked.batch}; needed: at most {NEEDED}")


def cell(without: Sequence[float], there: Sequence[float]) -> str:
    """Return both medians in ms, and the ratios of the pairs with their median."""
    ratios = [one / other for other, one in zip(without, there, strict=True)]
    each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    return f"{median(without) * 1e3:.1f}, {median(there) * 1e3:.1f} | **{median(ratios):.3f}** ({each})"


if __name__ == "__main__":
    main()
