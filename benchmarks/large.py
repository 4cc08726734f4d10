"""Measures the exchange of updates that are larger than the memory that a function has for it.

    python benchmarks/large.py
    python benchmarks/large.py --parameters 50e6 --slices 16

Live, four processes train a model with updates of 500 MB over a folder. The memory of each is sampled from the first commit
to the last: the most that it took beyond what it takes at its least, which is its model, its gradient and its libraries.
What is freed goes back to the system at once, so that it does not hide what is taken next.
In the virtual world, eight functions of AWS Lambda (78.6 MB/s each) exchange updates of 5 GB over s3-standard. Checking and
adding up take what they take here. The memory that is printed is the room of slices, two slices for the sum of one
that is being made, and its object.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Self

from floors import added_s

import lambdaml
from lambdaml.events import Event
from lambdaml.settings import JobSettings, Settings
from lambdaml.simulation.channel import Channel
from lambdaml.simulation.engine import VirtualRun
from lambdaml.simulation.platform import Platform
from lambdaml.simulation.stub_replica import Costs
from lambdaml.worker import shared
from lambdaml.worker.room import Room

SAMPLE_S = 0.02


class Watch:
    """Samples the resident memory of functions between the first commit and the last."""

    def __init__(self, steps: int, model_bytes: float) -> None:
        self._floor = model_bytes
        self.least: dict[int, int] = {}
        self.most: dict[int, int] = {}
        self._pids: list[int] = []
        self._steps, self._commits = steps, 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def __call__(self, event: Event) -> None:
        if event.event == "started":
            self._pids.append(event.pid)
        elif event.event == "commit":
            self._commits += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._over.wait(SAMPLE_S):
            for pid in self._pids if 0 < self._commits < self._steps else []:
                resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
                if resident < self._floor:  # it has ended
                    continue
                self.least[pid] = min(resident, self.least.get(pid, resident))
                self.most[pid] = max(resident, self.most.get(pid, 0))


def live(parameters: float, slices: int, workers: int = 4, steps: int = 4) -> None:
    """Train over a folder, and print the memory of the exchange."""
    os.environ |= {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    spec = f"{Path(__file__).parent / 'jobs.py'}:Stack"
    how: dict[str, Any] = {"workers": workers, "functions": workers, "steps": steps, "snapshot_every": 10 * steps}
    how |= {"args": {"parameters": parameters, "momentum": 0.0}, "pattern": f"scatter:{slices}"}
    with tempfile.TemporaryDirectory() as folder, Watch(steps, 4 * parameters) as watch:
        lambdaml.train(spec, f"file://{folder}/run", on_event=watch, **how)
    took = max(watch.most[pid] - watch.least[pid] for pid in watch.most)
    print(
        f"live: {workers} functions, updates of {4 * parameters / 1e6:,.0f} MB, scatter:{slices}: the exchange took at most "
        f"{took / 1e6:,.0f} MB of a function's memory"
    )


def modelled(size: int, slices: int, workers: int = 8, steps: int = 4) -> None:
    """Exchange updates of this size in the virtual world, and print the seconds and the memory."""
    rooms: list[Room] = []

    class Noted(Room):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            rooms.append(self)

    shared.Room = Noted  # type: ignore[misc]
    settings = Settings(
        job=JobSettings(spec="none"),
        workers=workers,
        steps=steps,
        pattern=f"scatter:{slices}",
        batch_size=8,
        samples=8 * workers * steps,
        steps_per_epoch=steps,
        parameters=size // 4,
        snapshot_every=10 * steps,
        lease_s=60.0,
        patience_s=1e5,
        token="large",
    )
    costs = Costs(step_s=1.0, apply_update_s=added_s() * size, update_bytes=size)
    platform, channel = Platform.parse("lambda-arm:1769"), Channel.parse("s3-standard")
    virtual = VirtualRun(settings, workers, costs, channel, platform)
    virtual.run()
    moments = [commit.time_s for commit in virtual.log()]
    round_s = median(later - earlier for earlier, later in pairwise(moments)) - costs.step_s
    most = max(room.most_bytes for room in rooms) + 2 * size // slices
    moved_s = 4 * size / platform.bandwidth_bytes_per_s * (workers - 1) / workers
    print(
        f"modelled: {workers} functions of 78.6 MB/s, updates of {size / 1e9:g} GB, scatter:{slices}: a round takes "
        f"{round_s:,.0f} s beside computing ({moved_s:,.0f} s if its bytes moved one after the other) and at most {most / 1e9:.2f} GB of memory"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=float, default=125e6)
    parser.add_argument("--slices", type=int, default=32)
    asked = parser.parse_args()
    modelled(round(40 * asked.parameters), asked.slices)
    live(asked.parameters, asked.slices)


if __name__ == "__main__":
    main()
