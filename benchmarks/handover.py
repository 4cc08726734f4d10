"""Measure what it costs a run on Lambda that its functions leave at their limit, and compare it with models.

    python benchmarks/handover.py --functions 1
    python benchmarks/handover.py --functions 2

The same `bsp` run of `examples/digits.py`, with one worker a function, on the Lambda of this machine and a store that
takes `--latency-ms` for each request, first without a limit and then with lives of `--life-s`, which makes a good 20
hand-overs. A shorter run comes first, so that as many environments are warm as functions that leave and come need.

What a hand-over costs the run is the difference of the times between the first and the last commit, divided by the
number of hand-overs. The gap of a hand-over is the time between a worker's last update of a function and its first one of
the next, less a step, which is the median time between two updates. With one function, the gap is what the hand-over
costs; with more, functions that leave together share their costs, and the gap holds the waits for others that leave.

With L the seconds of a request and e the rounds since the newest snapshot, the requests that wait for each other are

    leave      2 L        the last part of the trace, the leases
    succeed    3 L        the list of lives, the wish to leave, the claim
    start      4 L        run.json, the wish to leave, the model, run.json
    restore   (10 + e) L  the clock, the snapshot, the log's end, the lease, e own updates and one that is not there

and the modelled hand-over is their sum and a warm start of the platform `lambda-arm`. The planner models the same
(`lambdaml.simulation.scenario`) with 12 L, and 2 L for eight rounds in place of L for each, and `DETECT_S` in place of what
happens between leaving and starting.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import fmean, median

sys.path[:0] = [str(Path(__file__).parents[1])]

import lambdaml
from lambdaml.deploy.local_lambda import LocalLambda
from lambdaml.log import keys
from lambdaml.log.reader import RunReader
from lambdaml.patterns.gather import LOOKAHEAD
from lambdaml.simulation.platform import DETECT_S, Platform
from lambdaml.storage import Store, open_store
from tests.storage.servers import seaweedfs

JOB = f"{Path(__file__).parents[1] / 'examples' / 'digits.py'}:Digits"
WARM_S = Platform.parse("lambda-arm").warm_start_s[0]
SLACK_S = 1.0
_NAME = re.compile(r"launch-\w+\.(\d+)\.(\d+)-")


@dataclass(frozen=True, slots=True)
class HandOver:
    """The seconds of one hand-over.

    Attributes:
        gap_s: The time between the two updates, less a step.
        leave_s: The time from the last update until the next life is claimed.
        start_s: The time from then on until the new function has loaded the job.
        restore_s: The time from then on until its first update is begun.
        model_s, planner_s: The hand-over as modelled here, and by the planner.
    """

    gap_s: float
    leave_s: float
    start_s: float
    restore_s: float
    model_s: float
    planner_s: float


def hand_overs(run: RunReader, latency_s: float) -> tuple[list[HandOver], float]:
    """Return the hand-overs of a run whose functions have one worker each, and the median step."""
    ahead_s = time.time() - time.monotonic()
    rows = sorted((row for _, _, row in run.trace_rows("update")), key=lambda row: (row["worker"], row["seq"]))
    begun = {function: row["now_s"] for function, _, row in run.trace_rows("function")}
    lives = [info for info in run.store.list(keys.LAUNCHES) if "/lives/" in info.key]
    claimed = {info.key.split("/lives/")[1]: info.modified - ahead_s for info in lives}
    pairs = [(a, b) for a, b in itertools.pairwise(rows) if a["worker"] == b["worker"]]
    step_s = median(b["published_s"] - a["published_s"] for a, b in pairs if a["function"] == b["function"])
    every, found = run.settings.snapshot_every, []
    for last, first in pairs:
        if last["function"] == first["function"]:
            continue
        index, life = map(int, _NAME.findall(first["function"])[0])
        claim_s, begin_s = claimed[f"{index:05d}/{life:06d}.json"], begun[first["function"]]
        behind = first["seq"] % every
        found.append(
            HandOver(
                first["published_s"] - last["published_s"] - step_s,
                claim_s - last["published_s"],
                begin_s - claim_s,
                first["started_s"] - begin_s,
                (19 + behind) * latency_s + WARM_S,
                (12 + 2 * math.ceil(behind / LOOKAHEAD)) * latency_s + DETECT_S + WARM_S,
            )
        )
    return found, step_s


def request_s(store: Store) -> float:
    """Return the median seconds of a small request."""
    taken = []
    for number in range(20):
        began = time.perf_counter()
        store.put(f"probe/{number}", b"small")
        taken.append(time.perf_counter() - began)
    return median(taken)


@contextmanager
def place(kind: str, latency_ms: float) -> Iterator[str]:
    """Yield a URL with room for the name of a run."""
    with ExitStack() as stack:
        if kind == "seaweedfs":
            base, _, query = stack.enter_context(seaweedfs()).partition("?")
            yield f"{base}/{{}}?{query}&latency={latency_ms:g}ms"
        else:
            yield f"file://{stack.enter_context(tempfile.TemporaryDirectory())}/{{}}?latency={latency_ms:g}ms"


def train(url: str, local: LocalLambda, functions: int, steps: int, life_s: float) -> tuple[RunReader, float]:
    """Train, and return the run and the seconds between its first and its last commit."""
    lambdaml.train(
        JOB,
        url,
        workers=functions,
        functions=functions,
        steps=steps,
        snapshot_every=20,
        lease_s=3.0,
        lifetime_s=life_s,
        engine="lambda",
        engine_options={"endpoint_url": local.url},
    )
    run = RunReader(url)
    commits = list(run.log())
    return run, commits[-1].time_s - commits[0].time_s


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--functions", type=int, default=2)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--life-s", type=float, default=3.0)
    parser.add_argument("--latency-ms", type=float, default=30.0)
    parser.add_argument("--store", choices=("file", "seaweedfs"), default="file")
    asked = parser.parse_args()
    with place(asked.store, asked.latency_ms) as where, LocalLambda(concurrency=4 * asked.functions) as local:
        latency_s = request_s(open_store(where.format("probe")))
        train(where.format("first"), local, 2 * asked.functions, 40, math.inf)
        _, whole_s = train(where.format("whole"), local, asked.functions, asked.steps, math.inf)
        cold = local.stats()["cold"]
        run, parts_s = train(where.format("parts"), local, asked.functions, asked.steps, asked.life_s)
        cold = local.stats()["cold"] - cold
        found, step_s = hand_overs(run, latency_s)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {asked.functions} functions, {asked.steps} steps")
    print(f"a request {1000 * latency_s:.0f} ms, a step {1000 * step_s:.0f} ms")
    cost_s = (parts_s - whole_s) / len(found)
    print(
        f"{whole_s:.1f} s without a limit, {parts_s:.1f} s with {len(found)} hand-overs, {cold} of them cold: {cost_s:.2f} s each"
    )
    for field in fields(HandOver):
        values = sorted(getattr(each, field.name) for each in found)
        print(f"{field.name:10} median {median(values):6.2f}  worst {values[-1]:6.2f}")
    model_s = fmean(each.model_s for each in found)
    beyond = sorted(each.gap_s - each.model_s for each in found)
    print(f"beyond the model, on average {cost_s - model_s:.2f} s; needed: at most {step_s + SLACK_S:.2f} s")
    print(f"gaps beyond the model: median {median(beyond):.2f} s, worst {beyond[-1]:.2f} s")


if __name__ == "__main__":
    main()
