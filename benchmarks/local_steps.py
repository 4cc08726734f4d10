"""Compare local steps with one gradient at a time: what is reached with the same samples, and what that takes.

    python benchmarks/local_steps.py digits
    python benchmarks/local_steps.py charlm --seeds 3
    python benchmarks/local_steps.py digits --seeds 3 --local 20 --fragments 1 --fragments 2 --fragments 4
    python benchmarks/local_steps.py overlap

Eight workers train examples/digits.py or examples/charlm.py (with a context of 32 and batches of 8, a quarter of its
compute). Each worker computes the same number of batches under `bsp` with gradients, and with H local steps an update.
The result is evaluated on the test set; the puts of updates and their bytes are counted in the store. Runs go on in as
many processes as there are cores. `--outer` gives the outer optimizers to try. `--fragments F` sends the model in F parts,
one after H/F steps each, and `--schedule` may overlap the rounds of local steps. `overlap` simulates how long a local step takes with a model of 20 MB.
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
from lambdaml.simulation.stub_replica import Costs

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
    """The end of a run: its metric and loss, and how many samples, puts of updates and bytes of them it took."""

    metric: float
    loss: float
    samples: int
    puts: int
    size_bytes: int


def run(name: str, algorithm: str, schedule: str, steps: int, seed: int) -> Outcome:
    """Train once, in this process."""
    task, url = TASKS[name], f"memory://{name}-{algorithm}-{schedule}-{seed}"
    result = lambdaml.train(
        f"{EXAMPLES / task.spec}",
        url,
        workers=WORKERS,
        functions=1,
        algorithm=algorithm,
        schedule=schedule,
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
    size_bytes = sum(info.size_bytes for info in updates)
    return Outcome(result.metrics[task.metric], result.metrics["loss"], result.samples, len(updates), size_bytes)


def shown(values: Sequence[float]) -> str:
    """Return the mean and its standard error."""
    return f"{mean(values):.4f} ± {stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0:.4f}"


def compare(
    name: str,
    seeds: int,
    outers: Sequence[str],
    numbers: Sequence[int],
    fragments: Sequence[int],
    schedules: Sequence[str],
) -> None:
    """Train with gradients and with local steps, and print the table."""
    task = TASKS[name]
    specs = [("gradient", "bsp", task.batches)]
    for outer, number, parts, schedule in product(outers, numbers, fragments, schedules):
        more = f",fragments={parts}" if parts > 1 else ""
        specs.append((f"local:{number},outer={outer}{more}", schedule, task.batches * parts // number))
    whole = [(name, algorithm, schedule, steps, seed) for seed in range(seeds) for algorithm, schedule, steps in specs]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn")) as pool:
        outcomes = list(pool.map(run, *zip(*whole, strict=True)))
    base = outcomes[:: len(specs)]
    print(f"{name}, {WORKERS} workers, {base[0].samples} samples, {seeds} seeds, mean ± standard error")
    print(
        f"| algorithm | schedule | {task.metric} | worse than bsp | loss | puts of updates | their bytes | of bsp's |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for number, (algorithm, schedule, _) in enumerate(specs):
        found = outcomes[number :: len(specs)]
        assert len({outcome.samples for outcome in outcomes}) == 1
        gaps = [task.worse * (one.metric - other.metric) for one, other in zip(found, base, strict=True)]
        print(
            f"| `{algorithm}` | `{schedule}` | {shown([outcome.metric for outcome in found])} | {shown(gaps)} "
            f"| {shown([outcome.loss for outcome in found])} | {found[0].puts} "
            f"| {found[0].size_bytes / 1e6:.1f} MB | 1/{base[0].size_bytes / found[0].size_bytes:.1f} |"
        )
    print(
        f"\n{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; local:{SHOWN} may be {task.within} worse\n",
        flush=True,
    )


def overlap() -> None:
    """Simulate 8 workers on AWS Lambda and S3, and print the seconds that a local step takes with its share of exchanges."""
    print("| algorithm | schedule | bytes of an update | seconds of a local step, 0.1 of compute |\n|---|---|---|---|")
    for (algorithm, parts), schedule in product((("local:20", 1), ("local:20,fragments=4", 4)), ("bsp", "pipeline:1")):
        size = 20 * 10**6 // parts
        costs = Costs(step_s=0.1, apply_s=0.01, apply_update_s=0.01 / parts, update_bytes=size)
        places = {"channel": "s3-standard", "platform": "lambda-arm", "costs": costs, "snapshot_every": 1000}
        how = {"workers": WORKERS, "algorithm": algorithm, "schedule": schedule, **places}
        one, two = (lambdaml.simulate(steps=10 * times * parts, **how).run.seconds for times in (1, 2))
        print(f"| `{algorithm}` | `{schedule}` | {size / 1e6:.0f} MB | {(two - one) / 200:.3f} |")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("task", nargs="?", choices=[*TASKS, "overlap"], help="one of them; both trainings by default")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--outer", action="append", help="an outer optimizer to try in place of the task's own")
    parser.add_argument("--local", type=int, action="append", help="numbers of local steps, in place of 1, 5, 20, 100")
    parser.add_argument("--fragments", type=int, action="append", help="numbers of fragments, in place of 1")
    parser.add_argument("--schedule", action="append", help="schedules of local steps, in place of bsp")
    asked = parser.parse_args()
    if asked.task == "overlap":
        return overlap()
    for name in [asked.task] if asked.task else TASKS:
        tried = (
            asked.outer or TASKS[name].outer,
            asked.local or STEPS,
            asked.fragments or (1,),
            asked.schedule or ("bsp",),
        )
        compare(name, asked.seeds, *tried)


if __name__ == "__main__":
    main()
