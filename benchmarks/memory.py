"""Count copies of a model in memory: in functions, in the process that starts a run, and in a plain loop, the floor.

    python benchmarks/memory.py
    python benchmarks/memory.py --parameters 200e6
    python benchmarks/memory.py --parameters 400e6 --momentum 0 --workers 2 --functions 1

The peak resident memory of each process, less that of the same process with a model of 1,000 parameters, is printed in
units of the model's size, without the optimizer's own state (one copy with momentum). Mapped files count as far as they
were touched. Each process is a fresh one. At most 5 copies are allowed in a function of one worker, whatever the number
of workers, and 3 in the process that starts the run.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

SMALL = 1000.0
"""The parameters of the model whose processes are subtracted."""


def plain_loop(parameters: float, momentum: float, steps: int) -> None:
    """Train without lambdaml, in this process, and print its peak."""
    import torch
    from jobs import Stack

    torch.set_num_threads(1)
    job = Stack(parameters, momentum)
    model, dataset = job.model(), job.dataset()
    optimizer = job.optimizer(model)
    for step in range(steps):
        optimizer.zero_grad(set_to_none=False)
        job.loss(model, dataset[4 * step : 4 * step + 4]).backward()
        optimizer.step()
    print(json.dumps({"loop": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))


def run(parameters: float, momentum: float, steps: int, workers: int, functions: int) -> None:
    """Train with lambdaml, and print the peaks of this process and of the functions."""
    import lambdaml

    with tempfile.TemporaryDirectory() as folder:
        spec, args = f"{Path(__file__).parent / 'jobs.py'}:Stack", {"parameters": parameters, "momentum": momentum}
        how = {"workers": workers, "functions": functions, "steps": steps, "snapshot_every": max(1, steps // 2)}
        found = lambdaml.Run(lambdaml.train(spec, f"file://{folder}/run", args=args, **how).run).usage()
    starter = max(each.memory_bytes for each in found if each.launcher)
    print(json.dumps({"starter": starter, "function": max(each.memory_bytes for each in found if not each.launcher)}))


def peaks(mode: str, *numbers: float) -> dict[str, int]:
    """Return the peaks that a fresh process prints."""
    command = [sys.executable, __file__, "--only", mode, *map(str, numbers)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=float, default=20e6)
    parser.add_argument("--momentum", type=float, default=0.9)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--functions", type=int, default=2)
    parser.add_argument("--only", nargs="+", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.only:
        mode, parameters, momentum, *counts = asked.only
        (plain_loop if mode == "loop" else run)(float(parameters), float(momentum), *map(int, counts))
        return
    from jobs import Stack

    model_bytes = 4 * sum(each.numel() for each in Stack(asked.parameters).model().parameters())
    counts = asked.steps, asked.workers, asked.functions
    found, base = (
        peaks("loop", size, asked.momentum, asked.steps) | peaks("run", size, asked.momentum, *counts)
        for size in (asked.parameters, SMALL)
    )
    kept = 1.0 if asked.momentum else 0.0
    print(
        f"{model_bytes / 4e6:.0f} M parameters ({model_bytes / 1e6:,.0f} MB), {asked.workers} workers on {asked.functions} "
        f"functions, {asked.steps} steps, {'momentum' if kept else 'plain SGD'}"
    )
    print(f"{'':12} {'peak':>10} {'copies':>8} {'of the loop':>12}")
    floor = (found["loop"] - base["loop"]) / model_bytes - kept
    for name, peak in found.items():
        copies = (peak - base[name]) / model_bytes - (0.0 if name == "starter" else kept)
        print(f"{name:12} {peak / 1e6:7,.0f} MB {copies:8.2f} {copies / floor:12.2f}")


if __name__ == "__main__":
    main()
