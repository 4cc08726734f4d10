"""Measure what reproducible numerics cost: a training step on one thread with and without them.

    python benchmarks/numerics.py

Each cell is the median of several processes' medians. The processes take turns, so that a noisy machine disturbs all
alike. The environment is set before a process begins, which is the only way that works.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from statistics import median

from lambdaml.training import numerics

ROUNDS, STEPS, WARM = 5, 60, 10

OURS = numerics.environment("reproducible")
WAYS = {
    "nothing set": {},
    "MKL_CBWR=AVX2": {"MKL_CBWR": "AVX2"},
    "MKL_CBWR=COMPATIBLE": {"MKL_CBWR": "COMPATIBLE"},
    "reproducible": OURS,
    "reproducible, COMPATIBLE": {**OURS, "MKL_CBWR": "COMPATIBLE"},
}


def measure() -> None:
    """Print the milliseconds of a step of each model, and the class in which they were computed, as JSON."""
    import torch
    from torch import nn

    def step_ms(model: nn.Module, inputs: torch.Tensor) -> float:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        stamps = [time.perf_counter()]
        for _ in range(STEPS):
            optimizer.zero_grad()
            model(inputs).square().mean().backward()
            optimizer.step()
            stamps.append(time.perf_counter())
        return 1e3 * median(after - before for before, after in zip(stamps[WARM:], stamps[WARM + 1 :]))

    torch.set_num_threads(1)
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    cnn = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()
    )
    layer = nn.TransformerEncoderLayer(128, 4, 256, dropout=0.0, batch_first=True)
    found = {
        "MLP": step_ms(mlp, torch.randn(64, 784)),
        "small CNN": step_ms(cnn, torch.randn(32, 3, 32, 32)),
        "transformer layer": step_ms(layer, torch.randn(8, 32, 128)),
    }
    print(json.dumps({"ms": found, "class": str(numerics.current_class())}))


def main() -> None:
    plain = {name: value for name, value in os.environ.items() if name not in numerics.VARIABLES}
    times: dict[str, dict[str, list[float]]] = {way: {} for way in WAYS}
    classes = {}
    for _ in range(ROUNDS):
        for way, environment in WAYS.items():
            command = [sys.executable, __file__, "measure"]
            answer = subprocess.run(command, env=plain | environment, stdout=subprocess.PIPE, check=True)
            record = json.loads(answer.stdout)
            classes[way] = record["class"]
            for model, ms in record["ms"].items():
                times[way].setdefault(model, []).append(ms)
    models = list(times["nothing set"])
    print(f"ms a step, one thread, median of {ROUNDS} processes x {STEPS - WARM} steps, in turns")
    print(f"{'':26}" + "".join(f"{model:>20}" for model in models) + "  class")
    for way, row in times.items():
        print(f"{way:26}" + "".join(f"{median(row[model]):20.2f}" for model in models) + f"  {classes[way]}")


if __name__ == "__main__":
    measure() if sys.argv[1:] == ["measure"] else main()
