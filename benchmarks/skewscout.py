"""Measure what SkewScout saves and loses: bytes and accuracy by skew, beside BSP and the best fixed threshold.

    python benchmarks/skewscout.py

Digits, a network with one hidden layer of 64, five partitions, batches of 20, SGD of 0.1, 1,500 rounds of `bsp`. Gaia
(`local:1,ahead=yes,outer=sum`, `significant:V,decay=none`) is tuned by `skewscout`. The skews are 0, 20, 40, 80 and 100 %
(`skew:P`). Bytes are those of bodies, of travelling models, and of whole objects with their headers.

BSP (V = 0) and fixed thresholds are computed for all seeds at once, with the runtime's samples and initial weights; the
best fixed threshold is the one that sends least of a row with the factor 2^(1/2) whose shared model and whose mean own
model lose at most two points against BSP. Tuned runs are computed by one replica of the library without a store, as
`benchmarks/gaia.py` does it. `--check` computes a fixed run of each skew by a replica, too.

Needed: less is sent at 20 % skew than at 100 %; at most two points less accuracy than BSP; at most 30 % of its bytes,
travel and search included; at most 1.5 times the bytes of the best fixed threshold.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

import numpy as np
import torch
from gaia import BATCH, CENTRES, GAIA, HIDDEN, JOB, RATE, ROUNDS, run
from torch import Tensor
from torch.nn import functional as F

from lambdaml.job import Job
from lambdaml.log.commits import build_commit
from lambdaml.log.travel import read_travel
from lambdaml.options import RunOptions
from lambdaml.settings import Settings
from lambdaml.training.asked import resolve_job, settings_for
from lambdaml.training.calls import seed_streams
from lambdaml.training.flat import FlatGradient
from lambdaml.training.one_thread import OneThread
from lambdaml.training.own_state import own_values
from lambdaml.training.owners import DatasetSamples
from lambdaml.training.replica import Replica
from lambdaml.training.sampling import sampler_of

SKEWS = (0.0, 0.2, 0.4, 0.8, 1.0)
THRESHOLDS = tuple(round(0.05 * 2 ** (step / 2), 4) for step in range(11))
POINTS = 0.02
PLACED_BYTES = 8
"""The bytes of a number with its place."""

HEADER_BYTES = 448
"""The bytes of an update's header in these runs."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a run. Shares are of the bytes of the bodies of BSP.

    Attributes:
        sent: The share of the bodies.
        travel: The share of the travelling models.
        objects: The share of whole updates and travelling models, of those of BSP.
        shared: The accuracy of the shared model.
        own: The mean accuracy of the partitions' own models.
        last: The threshold at the end.
    """

    sent: float
    travel: float
    objects: float
    shared: float
    own: float
    last: float


def settings_of(skew: float, seed: int, threshold: float, tune: str | None) -> tuple[Settings, Job]:
    """Return the settings of a run, and its job."""
    job_settings, job = resolve_job(JOB, {"lr": RATE, "hidden": HIDDEN})
    asked = RunOptions(
        workers=CENTRES,
        steps=ROUNDS,
        batch_size=BATCH,
        algorithm=GAIA,
        codec=f"significant:{threshold:g},decay=none",
        partition=f"skew:{skew:g}",
        seed=seed,
        tune=tune,
    )
    return settings_for(job, job_settings, asked), job


def tuned(skew: float, seed: int, threshold: float, tune: str) -> Outcome:
    """Train once with a tuner."""
    settings, job = settings_of(skew, seed, threshold, tune)
    replica = Replica(job, settings)
    assert replica.travels is not None
    tuning, travelling = replica.travels.tuning, b""
    sent_bytes = travel_bytes = object_bytes = 0
    for seq in range(ROUNDS):
        made, arrived, leaving = [], travelling, b""
        for worker in range(CENTRES):
            judges = tuning.home(seq) is not None
            judged = replica.travels.judge(worker, seq, _body(arrived, tuning.home(seq), seq)) if judges else None
            update = replica.update(worker, seq)
            update.judged = judged
            if tuning.home(seq + 1) == worker:
                leaving = replica.travels.own(update)
                travel_bytes += len(leaving)
            update.pack()
            sent_bytes, object_bytes = sent_bytes + update.body_bytes, object_bytes + update.size_bytes
            made.append(update)
        commit = build_commit(
            replica.log_state, replica.parts.schedule, replica.rule, made, max_rejected=10, tuning=tuning
        )
        assert commit is not None
        replica.apply(commit, {update.id: update for update in made})
        travelling = leaving
    values = [replica.local.values(), *(own_values(replica, worker, ROUNDS) for worker in range(CENTRES))]
    dense_bytes = values[0].nbytes * CENTRES * ROUNDS
    shared, *own = [_accuracy(replica, job, each) for each in values]
    return Outcome(
        sent_bytes / dense_bytes,
        travel_bytes / dense_bytes,
        (object_bytes + travel_bytes) / (dense_bytes + HEADER_BYTES * CENTRES * ROUNDS),
        shared,
        mean(own),
        replica.log_state.changed.get("threshold", threshold),
    )


def _body(data: bytes, home: int | None, seq: int) -> dict[str, np.ndarray]:
    return read_travel(data, f"travel/{home}/{seq - 1}")


def _accuracy(replica: Replica, job: Job, values: np.ndarray) -> float:
    replica.local.restore(values)
    replica.model.eval()
    with torch.no_grad():
        return float(job.evaluate(replica.model)["accuracy"])


def fixed(skew: float, seeds: Sequence[int], threshold: float) -> list[Outcome]:
    """Train with a fixed threshold, with all seeds at once."""
    starts, batches = [], []
    for seed in seeds:
        settings, job = settings_of(skew, seed, threshold, None)
        seed_streams(seed, "model")
        starts.append(torch.from_numpy(FlatGradient(job.model(), torch.device("cpu")).values()))
        sampler = sampler_of(settings, DatasetSamples(job, job.dataset()))
        batches.append([[sampler.dealt(worker, seq) for worker in range(CENTRES)] for seq in range(ROUNDS)])
    shared, unsent = torch.stack(starts), torch.zeros(len(seeds), CENTRES, starts[0].numel())
    dense_bytes, sent = 4 * shared.shape[1], torch.zeros(len(seeds), dtype=torch.float64)
    x, y = job.data[0]
    for seq in range(ROUNDS):
        chosen, mask = _padded([each[seq] for each in batches])
        own = (shared[:, None] + unsent).requires_grad_(True)
        losses = F.cross_entropy(_scores(own, x[chosen]).movedim(-1, 1), y[chosen], reduction="none") * mask
        (gradient,) = torch.autograd.grad((losses.sum(-1) / mask.sum(-1)).sum(), own)
        made = unsent - RATE * gradient
        significant = made.abs() > threshold * shared.abs()[:, None]
        sizes = PLACED_BYTES * significant.sum(-1, keepdim=True)
        carried = torch.where(significant | (sizes >= dense_bytes), made, 0.0)
        shared, unsent = shared + carried.sum(1), made - carried
        sent += sizes.clamp(max=dense_bytes).double().mean((1, 2)) / dense_bytes
    x, y = job.data[1]
    with torch.no_grad():
        found = torch.cat([shared[:, None], shared[:, None] + unsent], 1)
        right = (_scores(found, x.expand(*found.shape[:2], *x.shape)).argmax(-1) == y).double().mean(-1)
    shares = (sent / ROUNDS).tolist()
    headers = HEADER_BYTES / dense_bytes
    return [
        Outcome(share, 0.0, (share + headers) / (1 + headers), row[0], mean(row[1:]), threshold)
        for share, row in zip(shares, right.tolist(), strict=True)
    ]


def _padded(batches: Sequence[Sequence[np.ndarray]]) -> tuple[Tensor, Tensor]:
    """Return the numbers of samples, [seeds, workers, batch], and which of them count, since batches differ in size."""
    longest = max(len(batch) for row in batches for batch in row)
    chosen = torch.zeros(len(batches), CENTRES, longest, dtype=torch.int64)
    mask = torch.zeros(chosen.shape)
    for seed, row in enumerate(batches):
        for worker, batch in enumerate(row):
            chosen[seed, worker, : len(batch)] = torch.from_numpy(batch)
            mask[seed, worker, : len(batch)] = 1.0
    return chosen, mask


def _scores(parameters: Tensor, x: Tensor) -> Tensor:
    """Return the scores, [..., samples, 10], of networks whose parameters are rows, [..., size]."""
    shape, ends = parameters.shape[:-1], [64 * HIDDEN, HIDDEN, 10 * HIDDEN, 10]
    first, bias, second, last = parameters.split(ends, -1)
    hidden = torch.relu(x @ first.view(*shape, HIDDEN, 64).mT + bias[..., None, :])
    return hidden @ second.view(*shape, 10, HIDDEN).mT + last[..., None, :]


def measure(seeds: Sequence[int], threshold: float, tune: str, check: bool) -> bool:
    """Print a table, and return whether all is as needed."""
    print(
        f"`{tune}` from `significant:{threshold:g},decay=none`, seeds {seeds[0]} to {seeds[-1]}: means ± standard errors\n"
    )
    print(
        "| skew | | bodies | travel | objects | shared model | own models | threshold |\n|--:|---|--:|--:|--:|--:|--:|--:|"
    )
    reached, sent = True, {}
    for skew in SKEWS:
        dense = fixed(skew, seeds, 0.0)
        rows = (fixed(skew, seeds, each) for each in reversed(THRESHOLDS))
        best = next(row for row in rows if _lost(row, dense) <= POINTS)
        mine = [tuned(skew, seed, threshold, tune) for seed in seeds]
        for name, row in (("BSP", dense), ("best fixed", best), ("tuned", mine)):
            print(f"| {skew:.0%} | {name} | {_cells(row)} |", flush=True)
        if check:
            again = run(GAIA, f"significant:{best[0].last:g},decay=none", f"skew:{skew:g}", seeds[0])
            print(
                f"| {skew:.0%} | replica, seed {seeds[0]} | {again.traffic:.3%} | | | {again.shared:.4f} | {mean(again.own):.4f} | |"
            )
            print(
                f"| {skew:.0%} | at once, seed {seeds[0]} | {best[0].sent:.3%} | | | {best[0].shared:.4f} | {best[0].own:.4f} | |"
            )
        ratios = [_of(mine, part) / _of(best, part) for part in ("sent", "objects")]
        sent[skew] = _of(mine, "sent") + _of(mine, "travel")
        whole = sent[skew] / _of(best, "sent")
        print(
            f"\n{skew:.0%}: {100 * _lost(mine, dense):.2f} points lost; of the best fixed threshold's bytes {ratios[0]:.2f} in bodies, "
            f"{whole:.2f} with travel, {ratios[1]:.2f} in objects\n",
            flush=True,
        )
        reached = reached and _lost(mine, dense) <= POINTS and sent[skew] <= 0.3 and whole <= 1.5
    return reached and sent[0.2] < sent[1.0]


def _of(row: Sequence[Outcome], part: str) -> float:
    return mean(getattr(one, part) for one in row)


def _lost(row: Sequence[Outcome], dense: Sequence[Outcome]) -> float:
    """Return how much accuracy is lost, by the shared model or by the own models, whichever is more."""
    return max(_of(dense, part) - _of(row, part) for part in ("shared", "own"))


def _cells(row: Sequence[Outcome]) -> str:
    def cell(part: str, form: str) -> str:
        values = [getattr(one, part) for one in row]
        return f"{mean(values):{form}} ± {stdev(values) / math.sqrt(len(values)):{form}}"

    shares = [cell("sent", ".3%"), cell("travel", ".2%"), cell("objects", ".2%")]
    return " | ".join([*shares, cell("shared", ".4f"), cell("own", ".4f"), cell("last", ".2f")])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5, help="their number")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--threshold", type=float, default=1.1, help="the threshold with which tuned runs begin")
    parser.add_argument("--tune", default="skewscout:loss=0.03", help="the tuner")
    parser.add_argument("--check", action="store_true", help="compute a fixed run of each skew by a replica, too")
    asked = parser.parse_args()
    begin, seeds = time.monotonic(), range(asked.first, asked.first + asked.seeds)
    with OneThread() as compute:
        reached = compute.submit(measure, seeds, asked.threshold, asked.tune, asked.check).result()
    print(f"\n{'reached' if reached else 'NOT reached'}; {os.cpu_count()} cores, {time.monotonic() - begin:.0f} s")
    sys.exit(not reached)


if __name__ == "__main__":
    main()
