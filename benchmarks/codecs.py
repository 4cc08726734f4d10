"""Compare whole trainings with every codec: what is reached with the same samples, and what the updates take.

    python benchmarks/codecs.py
    python benchmarks/codecs.py measure --job digits --only sparse topk:0.001 --seeds 5
    python benchmarks/codecs.py show --svg docs/concepts/codecs.svg

Eight workers train examples/digits.py or examples/charlm.py (with a context of 32 and batches of 8) by `bsp`, in this
process and on memory://. Each codec has its usual companions: error feedback where it asks for it, and `local:1` where
it needs displacements. Two more methods take twenty local steps for an update, which `sparse` or `fp32` carries; their
updates are fewer, of the same samples.

`measure` appends a line of JSON for each run to `--results`, and leaves out those that the file has already; `show`
turns the file into a table for each job and a figure. Both are done by default. Counted are the objects of updates, all
requests of a run whose one function is all eight workers, and what these cost on S3 Standard in its region. The last
columns are those of eight functions of AWS Lambda on S3 Standard in the virtual world, with updates of the measured
size and steps of 0.1 s, whose seconds are billed too.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from statistics import mean

import lambdaml
from lambdaml.codecs import CODECS, DISPLACEMENT
from lambdaml.cost.billing.prices import PriceBook
from lambdaml.cost.billing.tariff import Quantities, Tariff
from lambdaml.log import keys
from lambdaml.pages.charts import Axis, Chart, point_chart
from lambdaml.pages.figures import figure
from lambdaml.simulation.stub_replica import Costs

EXAMPLES = Path(__file__).parents[1] / "examples"
WORKERS, LOCAL = 8, 20
COSTS = Costs(step_s=0.1, encode_s=0.001, apply_s=0.001, apply_update_s=0.0002)
DENSE = "fp32"
UNITS = {3: "KB", 6: "MB", 9: "GB"}


@dataclass(frozen=True, slots=True)
class Task:
    """An example to train.

    Attributes:
        spec: The job.
        args: The job's arguments.
        batch_size: The number of samples in a batch.
        batches: The number of batches that each worker computes.
        metric: The metric that counts.
        sign: 1 if more of it is better, and -1 if less is.
        outer: The outer optimizer of local steps.
        shown: The part of the figure's axis below the best value; what is worse is drawn at its end.
    """

    spec: str
    args: Mapping[str, float]
    batch_size: int
    batches: int
    metric: str
    sign: int
    outer: str
    shown: float


TASKS = {
    "digits": Task("digits.py:Digits", {}, 32, 200, "accuracy", 1, "nesterov:0.7,0.5", 0.02),
    "charlm": Task(
        "charlm.py:CharLM", {"context": 32, "decay_steps": 240}, 8, 240, "loss", -1, "nesterov:0.7,0.5", 1.0
    ),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """A run and its end.

    Attributes:
        job, codec, algorithm, batches, seed: The run.
        metric: The metric of the result.
        samples, updates: The numbers of samples and updates that it took.
        size_bytes: The bytes of all objects of updates.
        requests: The number of all requests.
        usd: The US dollars of these requests on S3 Standard.
    """

    job: str
    codec: str
    algorithm: str
    batches: int
    seed: int
    metric: float
    samples: int
    updates: int
    size_bytes: int
    requests: int
    usd: float


def methods(task: Task, only: Sequence[str]) -> list[tuple[str, str]]:
    """Return codecs, each with the algorithm that it goes with."""
    found = []
    for spec in only or CODECS.variants():
        found.append((spec, "local:1" if DISPLACEMENT in CODECS.make(spec).needs else "gradient"))
    found += [
        (spec, f"local:{LOCAL},outer={task.outer}") for spec in (DENSE, "sparse") if spec in (only or (DENSE, "sparse"))
    ]
    return found


def run(name: str, codec: str, algorithm: str, seed: int) -> Outcome:
    """Train once, in this process."""
    task, url = TASKS[name], f"memory://{name}-{codec}-{algorithm}-{seed}"
    each = LOCAL if algorithm.startswith(f"local:{LOCAL}") else 1
    result = lambdaml.train(
        f"{EXAMPLES / task.spec}",
        url,
        workers=WORKERS,
        functions=1,
        engine="inline",
        algorithm=algorithm,
        codec=codec,
        steps=task.batches // each,
        seed=seed,
        args=task.args,
        batch_size=task.batch_size,
        snapshot_every=task.batches // each,
        keep="all",
    )
    opened = lambdaml.Run(url)
    usd = lambdaml.bill(opened, channel="s3-standard").bill.usd
    updates = list(opened.store.list(keys.UPDATES))
    size = sum(info.size_bytes for info in updates)
    opened.store.delete([info.key for info in updates])
    reached, requests = result.metrics[task.metric], sum(result.requests.values())
    how = (name, codec, algorithm, task.batches, seed)
    return Outcome(*how, reached, result.samples, len(updates), size, requests, usd)


def measure(names: Iterable[str], asked: argparse.Namespace) -> int:
    """Make the runs that the file of results lacks, and return how many of them failed."""
    there = {(one.job, one.codec, one.algorithm, one.seed) for one in outcomes(asked.results)}
    wanted = [
        (name, *method, seed)
        for seed in range(asked.seeds)
        for name in names
        for method in methods(TASKS[name], asked.only)
        if (name, *method, seed) not in there
    ]
    asked.results.parent.mkdir(parents=True, exist_ok=True)
    failed = 0
    with (
        ProcessPoolExecutor(asked.jobs, mp_context=multiprocessing.get_context("spawn")) as pool,
        asked.results.open("a") as file,
    ):
        futures = {pool.submit(run, *one): one for one in wanted}
        for done, future in enumerate(as_completed(futures), 1):
            what = f"{done} of {len(wanted)}: {' '.join(map(str, futures[future]))}"
            try:
                outcome = future.result()
            except lambdaml.LambdaMLError as error:
                failed += 1
                print(f"{what}: {error}", file=sys.stderr, flush=True)
                continue
            print(json.dumps(asdict(outcome)), file=file, flush=True)
            print(f"{what}: {TASKS[outcome.job].metric} {outcome.metric:.4f}", file=sys.stderr, flush=True)
    return failed


def outcomes(file: Path) -> list[Outcome]:
    """Return the runs of a file that were as long as runs are now."""
    lines = file.read_text().splitlines() if file.exists() else []
    found = [Outcome(**json.loads(line)) for line in lines]
    return [one for one in found if one.batches == TASKS[one.job].batches]


@cache
def virtual(algorithm: str, steps: int, size_bytes: int, snapshot_bytes: int) -> tuple[int, float, float]:
    """Return the requests, the seconds and the US dollars of a run of eight functions of AWS Lambda on S3 Standard."""
    costs = Costs(COSTS.step_s, COSTS.encode_s, COSTS.apply_s, COSTS.apply_update_s, size_bytes, snapshot_bytes)
    found = lambdaml.simulate(
        workers=WORKERS, steps=steps, algorithm=algorithm, costs=costs, exact=False, snapshot_every=steps
    )
    bill = Tariff(PriceBook.load(), "s3-standard", "lambda-arm").bill(Quantities.of(found))
    return sum(found.run.requests.values()), found.run.seconds, bill.usd


def grouped(name: str, found: Iterable[Outcome]) -> dict[tuple[str, str], list[Outcome]]:
    """Return the runs of a job by method, those with the most bytes first."""
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for one in found:
        if one.job == name:
            groups.setdefault((one.codec, one.algorithm), []).append(one)
    order = sorted(groups, key=lambda method: -mean(one.size_bytes for one in groups[method]))
    return {method: sorted(groups[method], key=lambda one: one.seed) for method in order}


def shown(size_bytes: float) -> str:
    """Return bytes in a unit that suits them."""
    power = min(9, max(3, math.floor(math.log10(size_bytes)) // 3 * 3))
    return f"{size_bytes / 10**power:.3g} {UNITS[power]}"


def label(codec: str, algorithm: str) -> str:
    """Return the name of a method."""
    return codec if algorithm == "gradient" else f"{codec}, {algorithm.partition(',')[0]}"


def table(name: str, groups: Mapping[tuple[str, str], Sequence[Outcome]]) -> None:
    """Print the table of a job."""
    task, dense = TASKS[name], {one.seed: one for one in groups[DENSE, "gradient"]}
    (some, *_), snapshot_bytes = dense.values(), next(iter(dense.values())).size_bytes // (WORKERS * task.batches)
    print(f"\n{name}, {WORKERS} workers, {some.samples} samples, {len(dense)} seeds: mean (least to greatest)\n")
    print(
        f"| codec | {task.metric} | worse than dense | bytes of updates | of dense | an update | requests, $ |", end=""
    )
    print(" eight functions: requests, seconds, $ |\n|---|---|---|---|---|---|---|---|", flush=True)
    for (codec, algorithm), runs in groups.items():
        reached = [one.metric for one in runs]
        size, updates = mean(one.size_bytes for one in runs), runs[0].updates
        gap = mean(task.sign * (dense[one.seed].metric - one.metric) for one in runs if one.seed in dense)
        share = dense[0].size_bytes / size
        requests, seconds, usd = virtual(algorithm, updates // WORKERS, round(size / updates), 2 * snapshot_bytes)
        seeds = "" if len(runs) == len(dense) else f", {len(runs)} of the seeds"
        print(
            f"| `{label(codec, algorithm)}` | **{mean(reached):.4f}** ({min(reached):.4f} to {max(reached):.4f}{seeds}) "
            f"| {gap:+.4f} | {shown(size)} | 1/{share:.4g} | {size / updates:,.0f} "
            f"| {mean(one.requests for one in runs):,.0f}, {mean(one.usd for one in runs):.5f} "
            f"| {requests:,}, {seconds:.1f}, {usd:.5f} |",
            flush=True,
        )


def panels(name: str, groups: Mapping[tuple[str, str], Sequence[Outcome]]) -> Iterator[Chart]:
    """Yield the charts of a job: the bytes of updates, and the metric of each seed and its mean, with a row for each method."""
    task = TASKS[name]
    best = max(task.sign * one.metric for runs in groups.values() for one in runs)
    sizes, reached = [], []
    for method, runs in groups.items():
        row = {"codec": label(*method)}
        sizes.append({**row, "bytes": mean(one.size_bytes for one in runs), "kind": "mean"})
        found = [(one.metric, "a seed") for one in runs] + [(mean(one.metric for one in runs), "mean")]
        for metric, kind in found:
            shown = task.sign * max(task.sign * metric, best - task.shown)
            reached.append(
                {**row, task.metric: shown, "kind": kind if shown == metric else "worse than the axis shows"}
            )
    looks = {
        "worse than the axis shows": ("var(--series-8)", "triangle-left", 60),
        "a seed": ("var(--series-1)", "circle", 30),
        "mean": ("var(--series-2)", "diamond", 80),
    }
    up, height = Axis("codec", "", kind="names"), 20 * len(groups)
    title, columns = f"{name}: bytes of updates", {"codec": "codec", "bytes": "bytes"}
    yield point_chart(
        title, title, sizes, Axis("bytes", "bytes", "bytes", "log"), up, "kind", looks, columns, height=height
    )
    title, columns = f"{name}: {task.metric}", {"codec": "codec", task.metric: task.metric}
    yield point_chart(title, title, reached, Axis(task.metric, task.metric), up, "kind", looks, columns, height=height)


def show(names: Iterable[str], asked: argparse.Namespace) -> None:
    """Print the tables, and write the figure."""
    found, charts = outcomes(asked.results), list[Chart]()
    for name in names:
        groups = grouped(name, found)
        if (DENSE, "gradient") not in groups:
            raise SystemExit(f"{asked.results} has no run of {name} with {DENSE} to compare with")
        table(name, groups)
        charts += panels(name, groups)
    if asked.svg:
        asked.svg.write_text(figure(charts))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", nargs="?", choices=("measure", "show"), help="one of them; both by default")
    parser.add_argument("--results", type=Path, default=Path("build/codecs.jsonl"), help="the file of results")
    parser.add_argument("--job", choices=TASKS, help="one of them; both by default")
    parser.add_argument("--only", nargs="+", default=[], metavar="SPEC", help="these codecs in place of the variants")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="the number of processes")
    parser.add_argument("--svg", type=Path, help="write the figure there")
    asked = parser.parse_args()
    names = [asked.job] if asked.job else list(TASKS)
    failed = measure(names, asked) if asked.what != "show" else 0
    if asked.what != "measure":
        show(names, asked)
    print(f"\n{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
