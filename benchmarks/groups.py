"""DS-Sync measured: consensus, accuracy, waiting, slow links and traffic of workers that average models in groups.

    python benchmarks/groups.py consensus
    python benchmarks/groups.py parity
    python benchmarks/groups.py waiting
    python benchmarks/groups.py links
    python benchmarks/groups.py traffic

`consensus`: a job in double precision whose workers differ after one long step and learn nothing more. Needed: all models
equal to 1e-12 after two rounds, with 4 workers in groups of 2 and 16 in groups of 4.

`parity`: digits, two hidden layers of 64, 8 workers in groups of 4, batches of 16, SGD of 0.1, 600 rounds; accuracy of the
mean model, with data dealt anew in each epoch (`iid`) and sorted by class. Needed: within one percentage point of `bsp`, and
without shuffling at least 15 below on sorted data.

`waiting`: 16 workers in groups of 4, in the virtual world. One worker is five seconds late in one round. Needed: the others'
mean wait in that round is at most 1.3 (G - 1) / (N - 1) of that in `bsp`. As a control, a worker that is a second late in every
round: shuffling passes the delay on, so that all wait for it after a few rounds.

`links`: the same workers with 10 MB of updates and one link to the store that is ten times slower, in the virtual world.

`traffic`: gets of updates in a round, by the meters of 16 functions. Needed: 48 that find something, where everybody who
reads everything needs 240.
"""

from __future__ import annotations

import argparse
import secrets
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

import lambdaml
from lambdaml.algorithms import Assignment
from lambdaml.options import RunOptions
from lambdaml.settings import JobSettings, Settings
from lambdaml.simulation.channel import Channel
from lambdaml.simulation.engine import VirtualRun
from lambdaml.simulation.platform import Platform
from lambdaml.simulation.stub_replica import Costs, StubReplica
from lambdaml.training.asked import resolved_settings
from lambdaml.worker.machine import Computed

JOBS = Path(__file__).resolve().parent / "jobs.py"
N, G = 16, 4
LATE_S, EVERY_ROUND_S = 5.0, 1.0
WHERE = {"channel": "s3-standard", "platform": "lambda-arm", "exact": True}


def trained(job: str, **options: Any) -> lambdaml.Run:
    """Train in memory."""
    url = f"memory://{secrets.token_hex(6)}"
    return lambdaml.Run(lambdaml.train(f"{JOBS}:{job}", url, engine="inline", functions=1, **options).run)


def consensus() -> None:
    """Print how far models are apart after each round."""
    print("| workers | groups of | after 1 round | after 2 rounds |\n|--:|--:|--:|--:|")
    for workers, size in ((4, 2), (16, 4)):
        run = trained("Agreeing", workers=workers, steps=3, schedule=f"groups:{size},every=1", snapshot_every=1)
        apart = []
        for version in (1, 2):
            models = [run.model(version, of=worker).state_dict()["weight"] for worker in range(workers)]
            apart.append(max(float((one - models[0]).abs().max()) for one in models))
        print(f"| {workers} | {size} | {apart[0]:.1e} | {apart[1]:.1e} |")


def parity(seeds: int) -> None:
    """Print accuracies of the mean model and of the worst worker, and how far models are from their mean."""
    print("| data | schedule | mean model, % | worst worker, % | distance from the mean |\n|---|---|--:|--:|--:|")
    shuffles = ("halves", "random", "none")
    for partition in ("iid", "sorted"):
        for schedule in ("bsp", *(f"groups:4,shuffle={shuffle}" for shuffle in shuffles)):
            rows = [_accuracies(schedule, partition, seed) for seed in range(seeds)]
            shared, worst, distance = zip(*rows, strict=True)
            print(
                f"| {partition} | {schedule} | {100 * mean(shared):.1f} ± {100 * stdev(shared):.1f} | {100 * mean(worst):.1f} | "
                f"{mean(distance):.1e} |",
                flush=True,
            )


def _accuracies(schedule: str, partition: str, seed: int) -> tuple[float, float, float]:
    run = trained(
        "DeepDigits", workers=8, steps=600, batch_size=16, seed=seed, schedule=schedule, partition=partition,
        snapshot_every=600,
    )  # fmt: skip
    job = run.job()
    if schedule == "bsp":
        shared = job.evaluate(run.model())["accuracy"]
        return shared, shared, 0.0
    models = [run.model(of=worker) for worker in range(8)]
    vectors = [torch.nn.utils.parameters_to_vector(model.parameters()).detach() for model in models]
    centre = torch.stack(vectors).mean(0)
    distance = mean(float((one - centre).norm() / centre.norm()) for one in vectors)
    with torch.no_grad():
        worst = min(job.evaluate(model)["accuracy"] for model in models)
        return job.evaluate(run.model())["accuracy"], worst, distance


class Late(StubReplica):
    """A replica whose worker 0 takes longer in some rounds, and which notes when updates begin and end."""

    late: Callable[[int], float]
    spans: dict[tuple[int, int], tuple[float, float]]

    def compute(self, assignment: Assignment) -> Computed:
        began = self._clock()
        if assignment.worker == 0:
            self._charge(self.late(assignment.seq))
        found = super().compute(assignment)
        self.spans[assignment.worker, assignment.seq] = began, self._clock()
        return found


def waits(schedule: str, late: Callable[[int], float], rounds: int) -> list[float]:
    """Return the mean seconds, over all workers but the late one, from the end of each update's computation until the next
    begins."""
    asked = RunOptions(workers=N, steps=rounds, schedule=schedule)
    settings: Settings = resolved_settings(
        asked, job=JobSettings(spec="late"), steps=rounds, batch_size=8, samples=8 * N * rounds, steps_per_epoch=rounds,
        parameters=1_000_000, snapshot_every=10 * rounds, token="late",
    )  # fmt: skip
    spans: dict[tuple[int, int], tuple[float, float]] = {}

    def machine(virtual: VirtualRun, world: Any) -> StubReplica:
        made = Late(virtual.settings, virtual.costs, world.charge, world.now, virtual.bad)
        made.late, made.spans = late, spans
        return made

    costs = Costs(step_s=0.1, encode_s=0.0005, apply_s=0.001, apply_update_s=0.001, update_bytes=4_000_000)
    VirtualRun(settings, N, costs, Channel.parse("s3-standard"), Platform.parse("local"), machine=machine).run()
    return [
        mean(spans[worker, turn + 1][0] - spans[worker, turn][1] for worker in range(1, N))
        for turn in range(rounds - 1)
    ]


def waiting() -> None:
    """Print the others' waits for a worker that is late once, and for one that is always late."""
    bound, at = 1.3 * (G - 1) / (N - 1), 12
    print(f"late by {LATE_S:g} s in round {at}; allowed: {bound:.3f} of bsp's wait")
    print("| shuffle | bsp, s | groups, s | ratio | in the round after |\n|---|--:|--:|--:|--:|")
    whole = waits("bsp", lambda turn: LATE_S * (turn == at), 20)
    for shuffle in ("grid", "random"):
        found = waits(f"groups:{G},shuffle={shuffle}", lambda turn: LATE_S * (turn == at), 20)
        print(
            f"| {shuffle} | {whole[at]:.2f} | {found[at]:.2f} | {found[at] / whole[at]:.3f} | {found[at + 1]:.2f} s |",
            flush=True,
        )
    print(f"\nlate by {EVERY_ROUND_S:g} s in every round; the others' wait as a share of bsp's")
    marks = (0, 1, 2, 3, 9, 49)
    print("| shuffle | " + " | ".join(f"round {mark + 1}" for mark in marks) + " |\n|---|" + "--:|" * len(marks))
    whole = waits("bsp", lambda turn: EVERY_ROUND_S, 52)
    for shuffle in ("grid", "random"):
        found = waits(f"groups:{G},shuffle={shuffle}", lambda turn: EVERY_ROUND_S, 52)
        print(f"| {shuffle} | " + " | ".join(f"{found[mark] / whole[mark]:.2f}" for mark in marks) + " |", flush=True)


def links() -> None:
    """Print the time of a round with one slow link."""
    slow = "+".join("10" if worker == 3 else "1" for worker in range(N))
    rows = {
        "bsp, gather": {"schedule": "bsp"},
        "bsp, scatter": {"schedule": "bsp", "pattern": "scatter"},
        "groups of 4": {"schedule": "groups:4"},
        "groups of 4 by links, mixed every 8th round": {"schedule": f"groups:4,links={slow}"},
    }
    print("| exchange | all links alike, s a round | one ten times slower | factor |\n|---|--:|--:|--:|")
    for name, options in rows.items():
        alike, one_slow = (_round_s(link, **options) for link in (None, "3:10"))
        print(f"| {name} | {alike:.2f} | {one_slow:.2f} | {one_slow / alike:.1f} |", flush=True)


def _round_s(slow_link: str | None, **options: Any) -> float:
    """Return the seconds of a round, without those before the first."""
    costs = Costs(step_s=0.1, encode_s=0.001, apply_s=0.003, apply_update_s=0.003, update_bytes=10_000_000)
    few, many = 8, 40
    seconds = [
        lambdaml.simulate(
            workers=N, steps=steps, costs=costs, slow_link=slow_link, snapshot_every=1000, **WHERE, **options
        ).run.seconds
        for steps in (few, many)
    ]
    return (seconds[1] - seconds[0]) / (many - few)


def traffic() -> None:
    """Print the gets of a round."""
    rounds, every = 40, 8
    print("| schedule | gets of updates that find, a round | headers, a round | looks that find nothing, a round |")
    print("|---|--:|--:|--:|")
    for schedule in ("bsp", f"groups:{G},every={every}"):
        url = f"memory://{secrets.token_hex(6)}?latency=20ms"
        done = lambdaml.train(
            f"{JOBS}:Payload", url, args={"floats": 1000, "samples": 512}, schedule=schedule, workers=N, functions=N,
            engine="inline", steps=rounds, snapshot_every=10 * rounds,
        )  # fmt: skip
        rows = lambdaml.Run(done.run).trace()
        whole = done.requests.get("get_range", 0)
        found, missed = (sum(row[name] or 0 for row in rows) for name in ("gets", "polls"))
        print(f"| {schedule} | {(found - whole) / rounds:.1f} | {whole / rounds:.1f} | {missed / rounds:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("consensus", "parity", "waiting", "links", "traffic"))
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    parts = {"consensus": consensus, "waiting": waiting, "links": links, "traffic": traffic}
    parts.get(asked.what, lambda: parity(asked.seeds))()


if __name__ == "__main__":
    main()
