"""Measure what Gaia saves and loses: bytes between data centres, and accuracy in each of them.

    python benchmarks/gaia.py traffic
    python benchmarks/gaia.py skew

Digits, a network with one hidden layer of 64, five data centres (workers), batches of 20, SGD of 0.1, 1,500 rounds of
`bsp`. Gaia is `local:1,ahead=yes,outer=sum` with `significant`: a data centre sends the numbers u with |u| > v |w|. The bytes
of an update are those of its numbers and their places. Dense are `local:1,outer=sum` with `fp32`, which is Gaia at the
threshold 0, and `gradient`, whose steps go along the mean. Data are dealt anew in each epoch (`iid`), or data centres own
samples, of which a share is sorted by class (`skew:P`; at 1 each has two of the ten classes).

`traffic`: v falls with 1.0 / sqrt(t). Needed: at most 5 % of the bytes of BSP, and at most one percentage point less
accuracy, at `iid` and at `skew:1`. Controls are Gaia without `ahead=yes`, and with the mean in place of the sum.

`skew`: v is constant. The test loss of the data centres' own models, and how much accuracy they have lost against dense
runs with the same seed, for skews of 0, 40, 80 and 100 %. Needed: at 100 % at least two standard errors more than at 0, and
between neighbours no step back of more than one.

Each run is computed by one replica of the library without a store (`Replica.update`, `Replica.apply`).
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev

import torch

from lambdaml.log.commits import averaged
from lambdaml.options import RunOptions
from lambdaml.training.asked import resolve_job, settings_for
from lambdaml.training.one_thread import OneThread
from lambdaml.training.own_state import own_values
from lambdaml.training.replica import Replica

JOB = f"{Path(__file__).parents[1] / 'examples' / 'digits.py'}:Digits"
CENTRES, ROUNDS, BATCH, RATE, HIDDEN = 5, 1500, 20, 0.1, 64
GAIA, SUM, MEAN = "local:1,ahead=yes,outer=sum", "local:1,outer=sum", "gradient"
CONTROLS = (SUM, "local:1,ahead=yes")
"""Gaia without being ahead, and with the mean in place of the sum."""

SKEWS = (0.0, 0.4, 0.8, 1.0)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a run.

    Attributes:
        size_bytes: The bytes of all updates.
        dense_bytes: The bytes that they would have with all numbers.
        shared: The accuracy of the shared model.
        own: The accuracy of each data centre's own model.
        shared_loss: The test loss of the shared model.
        own_loss: The mean test loss of the own models.
    """

    size_bytes: int
    dense_bytes: int
    shared: float
    own: tuple[float, ...]
    shared_loss: float
    own_loss: float

    @property
    def traffic(self) -> float:
        """The bytes as a share of those of dense updates."""
        return self.size_bytes / self.dense_bytes


@cache
def run(algorithm: str, codec: str, partition: str, seed: int) -> Outcome:
    """Train once."""
    with OneThread() as compute:
        return compute.submit(_run, algorithm, codec, partition, seed).result()


def _run(algorithm: str, codec: str, partition: str, seed: int) -> Outcome:
    job_settings, job = resolve_job(JOB, {"lr": RATE, "hidden": HIDDEN})
    asked = RunOptions(
        workers=CENTRES,
        steps=ROUNDS,
        batch_size=BATCH,
        algorithm=algorithm,
        codec=codec,
        partition=partition,
        seed=seed,
    )
    replica = Replica(job, settings_for(job, job_settings, asked))
    size_bytes = 0
    for seq in range(ROUNDS):
        made = [replica.update(worker, seq) for worker in range(CENTRES)]
        size_bytes += sum(array.nbytes for update in made for array in update.body.values())
        replica.apply(averaged(seq, seq, made), {update.id: update for update in made})
    replica.model.eval()
    values = [replica.local.values(), *(own_values(replica, worker, ROUNDS) for worker in range(CENTRES))]
    found = []
    for each in values:
        replica.local.restore(each)
        with torch.no_grad():
            found.append(job.evaluate(replica.model))
    shared, *own = found
    return Outcome(
        size_bytes,
        values[0].nbytes * CENTRES * ROUNDS,
        shared["accuracy"],
        tuple(each["accuracy"] for each in own),
        shared["loss"],
        mean(each["loss"] for each in own),
    )


def measure_traffic(seeds: Sequence[int], threshold: float) -> bool:
    """Print the bytes and the accuracies with a threshold that falls, and return whether they are as needed."""
    codec = f"significant:{threshold:g}"
    methods = [(MEAN, "fp32"), (SUM, "fp32"), (GAIA, codec), *((control, codec) for control in CONTROLS)]
    print(
        "| data | method | traffic | shared model | data centres: mean | each data centre |\n|---|---|--:|--:|--:|---|"
    )
    reached = True
    for partition in ("iid", "skew:1"):
        rows = [[run(*method, partition, seed) for seed in seeds] for method in methods]
        for (algorithm, name), runs in zip(methods, rows, strict=True):
            each = [mean(one.own[centre] for one in runs) for centre in range(CENTRES)]
            print(
                f"| `{partition}` | `{algorithm}`, `{name}` | **{mean(one.traffic for one in runs):.2%}** "
                f"| {mean(one.shared for one in runs):.4f} | **{mean(each):.4f}** "
                f"| {', '.join(f'{one:.4f}' for one in each)} |",
                flush=True,
            )
        dense, gaia = max(mean(one.shared for one in runs) for runs in rows[:2]), rows[2]
        lost = dense - min(mean(mean(one.own) for one in gaia), mean(one.shared for one in gaia))
        reached = reached and mean(one.traffic for one in gaia) <= 0.05 and lost <= 0.01
        print(f"\n{partition}: at most {100 * lost:.2f} points less than the better dense run\n", flush=True)
    return reached


def measure_skew(seeds: Sequence[int], threshold: float, algorithm: str = GAIA) -> bool:
    """Print what is lost with a constant threshold by skew, and return whether it grows as needed."""
    print(
        f"`{algorithm}`, `significant:{threshold:g},decay=none`, seeds {seeds[0]} to {seeds[-1]}: means and standard errors\n"
    )
    print("| skew | traffic | test loss, data centres | shared model | points lost, data centres | shared model |")
    print("|--:|--:|--:|--:|--:|--:|", flush=True)
    columns: list[list[list[float]]] = [[], [], [], []]
    for skew in SKEWS:
        gaia = [run(algorithm, f"significant:{threshold:g},decay=none", f"skew:{skew:g}", seed) for seed in seeds]
        dense = [run(SUM, "fp32", f"skew:{skew:g}", seed) for seed in seeds]
        both = list(zip(gaia, dense, strict=True))
        new = (
            [one.own_loss for one in gaia],
            [one.shared_loss for one in gaia],
            [100 * (full.shared - mean(one.own)) for one, full in both],
            [100 * (full.shared - one.shared) for one, full in both],
        )
        for column, values in zip(columns, new, strict=True):
            column.append(values)
        cells = " | ".join(f"{mean(values):.3f} ± {error(values):.3f}" for values in new)
        print(f"| {skew:.0%} | {mean(one.traffic for one in gaia):.2%} | {cells} |", flush=True)
    names = ("loss, own", "loss, shared", "points, own", "points, shared")
    grown = [grows(name, column) for name, column in zip(names, columns, strict=True)]
    return all(grown)


def error(values: Sequence[float]) -> float:
    """Return the standard error of a mean."""
    return stdev(values) / math.sqrt(len(values))


def steps(values: Sequence[float], others: Sequence[float]) -> float:
    """Return by how many standard errors of their difference the mean of the second exceeds that of the first."""
    return (mean(others) - mean(values)) / math.hypot(error(values), error(others))


def grows(name: str, column: Sequence[Sequence[float]]) -> bool:
    """Print and return whether a measure grows with skew."""
    whole = steps(column[0], column[-1])
    each = [steps(one, other) for one, other in pairwise(column)]
    print(
        f"{name}: full skew exceeds none by {whole:.1f} standard errors; steps {', '.join(f'{e:+.1f}' for e in each)}"
    )
    return whole >= 2 and min(each) >= -1


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("traffic", "skew"))
    parser.add_argument("--threshold", type=float, help="v; by default 1 for traffic, and 0.3 for skew")
    parser.add_argument("--seeds", type=int, help="their number; by default 2 for traffic, and 10 for skew")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--algorithm", default=GAIA, help="of skew, such as the control local:1,outer=sum")
    asked = parser.parse_args()
    begin, count = time.monotonic(), asked.seeds or (2 if asked.what == "traffic" else 10)
    seeds = range(asked.first, asked.first + count)
    if asked.what == "traffic":
        reached = measure_traffic(seeds, asked.threshold or 1.0)
    else:
        reached = measure_skew(seeds, asked.threshold or 0.3, asked.algorithm)
    print(f"\n{'reached' if reached else 'NOT reached'}; {os.cpu_count()} cores, {time.monotonic() - begin:.0f} s")
    sys.exit(not reached)


if __name__ == "__main__":
    main()
