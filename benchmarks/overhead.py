"""Compare one worker with a plain PyTorch loop: what log, store and processes cost when nothing is shared.

    python benchmarks/overhead.py

Samples per second of the same job, batch and optimizer are measured, on one thread each. The loop and the runs take
turns, so that a noisy machine disturbs all alike, and compute in the same numerics class. Runs must reach at least 0.9
of the loop on memory://, and 0.8 on file://.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

import lambdaml
from lambdaml.events import Event
from lambdaml.training import numerics
from lambdaml.training.sampling import Sampler

sys.path.insert(0, str(Path(__file__).parent))
import jobs

STEPS, WARM, ROUNDS = 150, 30, 7
JOBS = ("Convolutions", "Dense")


def plain_loop(name: str) -> float:
    """Return the seconds of a step."""
    torch.set_num_threads(1)
    job = getattr(jobs, name)()
    model, dataset = job.model(), job.dataset()
    optimizer, sampler = job.optimizer(model), Sampler(job.samples, 1, job.batch_size, 0)
    stamps = []
    for step in range(STEPS):
        batch = list(dataset[sampler.indices(0, step).tolist()])
        optimizer.zero_grad()
        job.loss(model, batch).backward()
        optimizer.step()
        stamps.append(time.perf_counter())
    return (stamps[-1] - stamps[WARM]) / (STEPS - 1 - WARM)


def run(name: str, url: str) -> float:
    """Return the seconds of a step."""
    stamps: list[float] = []

    def on_event(event: Event) -> None:
        if event.event == "commit":
            stamps.append(time.perf_counter())

    spec = f"{Path(__file__).parent / 'jobs.py'}:{name}"
    lambdaml.train(spec, url, workers=1, steps=STEPS, snapshot_every=10**6, on_event=on_event)
    return (stamps[-1] - stamps[WARM]) / (len(stamps) - 1 - WARM)


def main() -> None:
    numerics.prepare("reproducible")
    print(f"all {numerics.current_class()}")
    for name in JOBS:
        measure(name)


def measure(name: str) -> None:
    job = getattr(jobs, name)()
    size = sum(parameter.numel() for parameter in job.model().parameters())
    times: dict[str, list[float]] = {"plain loop": [], "memory://": [], "file://": []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(ROUNDS):
            times["plain loop"].append(plain_loop(name))
            times["memory://"].append(run(name, f"memory://{name}-{number}"))
            times["file://"].append(run(name, f"file://{folder}/{number}"))
    base = times["plain loop"]
    print(f"{name}: {size} parameters, batch {job.batch_size}, one thread, median of {ROUNDS} x {STEPS - WARM} steps")
    print(f"{'':12} {'ms a step':>10} {'samples/s':>10} {'of the loop':>12}")
    for place, seconds in times.items():
        ratio = median(b / s for b, s in zip(base, seconds, strict=True))
        step = median(seconds)
        print(f"{place:12} {step * 1e3:10.2f} {job.batch_size / step:10.0f} {ratio:12.3f}")


if __name__ == "__main__":
    main()
