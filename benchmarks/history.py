"""Measure what bounded history costs, and show that it keeps its bound under random kills.

    python benchmarks/history.py                    # 10,000 updates of 1 MB, 2 GiB
    python benchmarks/history.py --updates 2000 --keep 400M

First, the price: `asp` runs that keep everything and runs that keep a little take turns, in both orders, and their
updates per second are compared. Keeping everything takes as much room on the disk as all updates. Then one long run is
made: its functions are killed with SIGKILL at random moments, the command itself is stopped and resumed twice, the
folder is weighed all the while, and what is left is verified.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.utils.data import TensorDataset

import lambdaml
from lambdaml.events import Event
from lambdaml.job import Job

JOB = f"{Path(__file__).resolve()}:Wide"
WORKERS, FUNCTIONS = 4, 2
KILL_S = (3.0, 8.0)
"""The least and the most seconds between two kills."""


class Wide(Job):
    """A job of 250,000 parameters, with 1 MB per update and almost nothing to compute."""

    batch_size = 4

    def model(self) -> nn.Module:
        return nn.Linear(500, 500)

    def dataset(self) -> TensorDataset:
        return TensorDataset(torch.ones(64, 500), torch.ones(64, 500))

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        x, y = batch
        return (model(x) - y).pow(2).mean()

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=1e-3)


def train(url: str, updates: int, keep: str, on_event: Callable[[Event], None]) -> lambdaml.TrainResult:
    return lambdaml.train(
        JOB,
        url,
        workers=WORKERS,
        functions=FUNCTIONS,
        schedule="asp",
        steps=updates // WORKERS,
        snapshot_every=25,
        keep=keep,
        on_event=on_event,
    )


def weight(folder: Path) -> int:
    """Return the bytes of all files. A file that disappears meanwhile counts as nothing."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_size
            except FileNotFoundError:
                continue
    return total


class Scale(threading.Thread):
    """A thread that weighs a folder until it is told to stop."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.folder, self.most, self.done = folder, 0, False

    def run(self) -> None:
        while not self.done:
            self.most = max(self.most, weight(self.folder))
            time.sleep(0.25)


class Killer:
    """A killer of functions, now and then, that also stops the command at given shares of the run."""

    def __init__(self, seed: int, stops: list[float]) -> None:
        self.kills, self.deaths = 0, 0
        self._random = random.Random(seed)
        self._due = time.monotonic() + self._random.uniform(*KILL_S)
        self._pids: dict[str, int] = {}
        self._stops = stops

    def __call__(self, event: Event) -> None:
        if event.event == "started":
            self._pids[event.function] = event.pid
        elif event.event == "ended":
            self._pids.pop(event.function, None)
            self.deaths += event.code == -signal.SIGKILL
        elif event.event == "commit":
            if self._stops and event.fraction >= self._stops[0]:
                self._stops.pop(0)
                raise KeyboardInterrupt
            if time.monotonic() >= self._due and self._pids:
                os.kill(self._random.choice(sorted(self._pids.values())), signal.SIGKILL)
                self.kills += 1
                self._due = time.monotonic() + self._random.uniform(*KILL_S)


def rate(updates: int, keep: str) -> float:
    """Return the updates per second between the first commit and the last."""
    times: list[float] = []

    def watch(event: Event) -> None:
        if event.event == "commit":
            times.append(time.monotonic())

    with tempfile.TemporaryDirectory() as folder:
        train(f"file://{folder}/run", updates, keep, watch)
    return updates / (times[-1] - times[0])


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--updates", type=int, default=10_000)
    parser.add_argument("--keep", default="2G")
    parser.add_argument("--pairs", type=int, default=3, help="of runs whose speed is compared")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    ratios = []
    for pair in range(asked.pairs):
        order = ("all", asked.keep) if pair % 2 == 0 else (asked.keep, "all")
        found = {keep: rate(asked.updates, keep) for keep in order}
        everything, little = found["all"], found[asked.keep]
        ratios.append(little / everything)
        print(
            f"keeps all: {everything:6.1f} updates/s    keeps {asked.keep}: {little:6.1f}    ratio {ratios[-1]:.3f}",
            flush=True,
        )
    if ratios:
        print(f"deleting leaves {median(ratios):.3f} of the updates per second (median)")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "run"
        scale, killer = Scale(place), Killer(asked.seed, [0.4, 0.7])
        scale.start()
        try:
            train(f"file://{place}", asked.updates, asked.keep, killer)
        except KeyboardInterrupt:
            while not (place / "model.safetensors").exists():
                try:
                    lambdaml.resume(f"file://{place}", functions=FUNCTIONS, on_event=killer)
                except KeyboardInterrupt:
                    continue
        scale.done = True
        scale.join()
        run = lambdaml.Run(f"file://{place}")
        report = run.verify()
        print(
            f"{asked.updates:,} updates, {killer.deaths} functions killed: at most {scale.most / 2**30:.3f} GiB in the folder; "
            f"kept from version {report.first:,}; fates {run.summary().fates}; {'OK' if report.ok else report.faults}"
        )


if __name__ == "__main__":
    main()
