"""Compare local steps with one gradient at a time: what is reached with the same samples, and what that takes.

    python benchmarks/local_steps.py digits
    python benchmarks/local_steps.py charlm --seeds 3

Eight workers train examples/digits.py or examples/charlm.py (with a context of 32 and batches of 8, a quarter of its
compute). Each worker computes the same number of batches under `bsp` with gradients, and with H local steps an update.
The result is evaluated on the test set; the puts of updates and their bytes are counted in the store. Runs go on in as
many processes as there are cores. `--outer` gives the outer optimizers to try.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import mean, stdev

import lambdaml
from lambdaml.log import keys

EXAMPLES = Path(__file__).parents[1] / "examples"
WORKERS = 8
STEPS = (1, 5, 20, 100)
SHOWN = 20
"""The number of local steps whose result is compared with `bsp`."""


@dataclass(frozen=True, slots=True)
class Task:
    """An example to train.

    Attributes:
        spec: The job.
        args: The job's arguments.
        batch_size: The number of samples in a batch.
        batches: The number of batches that each worker computes.
        metric: The metric that counts.
        worse: 1 if a greater metric is worse, and -1 if a smaller one is.
        within: How much worse than `bsp` local steps may be.
        outer: The outer optimizers that are tried.
    """

    spec: str
    args: Mapping[str, float]
    batch_size: int
    batches: int
    metric: str
    worse: int
    within: float
    outer: tuple[str, ...]


TASKS = {
    "digits": Task("digits.py:Digits", {}, 32, 200, "accuracy", -1, 0.01, ("nesterov:0.7,0.9", "nesterov:0.7,0.5")),
    "charlm": Task(
        *("charlm.py:CharLM", {"context": 32, "decay_steps": 400}, 8, 400),
        *("loss", 1, 0.02, ("nesterov:0.7,0.5",)),
    ),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a run: its metric, and how many samples, puts of updates and bytes of them it took."""

    metric: float
    samples: int
    puts: int
    size_bytes: int


def run(name: str, algorithm: str, steps: int, seed: int) -> Outcome:
    """Train once, in this process."""
    task, url = TASKS[name], f"memory://{name}-{algorithm}-{seed}"
    result = lambdaml.train(
        f"{EXAMPLES / task.spec}",
        url,
        workers=WORKERS,
        functions=1,
        algorithm=algorithm,
        steps=steps,
        seed=seed,
        args=task.args,
        batch_size=task.batch_size,
        snapshot_every=steps,
        keep="all",
    )
    store = lambdaml.Run(url).store
    updates = list(store.list(keys.UPDATES))
    store.delete([info.key for info in updates])
    print(f"{algorithm} seed {seed}: {task.metric} {result.metrics[task.metric]:.4f}", file=sys.stderr, flush=True)
    return Outcome(result.metrics[task.metric], result.samples, len(updates), sum(info.size_bytes for info in updates))


def shown(values: Sequence[float]) -> str:
    """Return the mean and its standard error."""
    return f"{mean(values):.4f} ± {stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0:.4f}"


def compare(name: str, seeds: int, outers: Sequence[str], numbers: Sequence[int]) -> None:
    """Train with gradients and with local steps, and print the table."""
    task = TASKS[name]
    specs = [("gradient", task.batches)]
    for outer, number in product(outers, numbers):
        specs.append((f"local:{number},outer={outer}", task.batches // number))
    whole = [(name, algorithm, steps, seed) for seed in range(seeds) for algorithm, steps in specs]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn")) as pool:
        outcomes = list(pool.map(run, *zip(*whole, strict=True)))
    base = outcomes[:: len(specs)]
    print(f"{name}, {WORKERS} workers, {base[0].samples} samples, {seeds} seeds, mean ± standard error")
    print(f"| algorithm | {task.metric} | worse than bsp | puts of updates | their bytes | of bsp's |")
    print("|---|---|---|---|---|---|")
    for number, (algorithm, _) in enumerate(specs):
        found = outcomes[number :: len(specs)]
        assert len({outcome.samples for outcome in outcomes}) == 1
        gaps = [task.worse * (one.metric - other.metric) for one, other in zip(found, base, strict=True)]
        print(
            f"| `{algorithm}` | {shown([outcome.metric for outcome in found])} | {shown(gaps)} | {found[0].puts} "
            f"| {found[0].size_bytes / 1e6:.1f} MB | 1/{base[0].size_bytes / found[0].size_bytes:.1f} |"
        )
    print(
        f"\n{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; local:{SHOWN} may be {task.within} worse\n",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("task", nargs="?", choices=TASKS, help="one of them; both by default")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--outer", action="append", help="an outer optimizer to try in place of the task's own")
    parser.add_argument("--local", type=int, action="append", help="numbers of local steps, in place of 1, 5, 20, 100")
    asked = parser.parse_args()
    for name in [asked.task] if asked.task else TASKS:
        compare(name, asked.seeds, asked.outer or TASKS[name].outer, asked.local or STEPS)


if __name__ == "__main__":
    main()
