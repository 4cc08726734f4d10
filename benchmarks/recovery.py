"""Measure what a crash and a planned leave cost a run whose workers remember.

    python benchmarks/recovery.py

Crash: `local:8` on file://, two functions of one worker each, and one of them gets SIGKILL after a known number of
updates. Measured is the time from the death to the first new update of its worker, in turns with a run whose workers
keep the state of their Adam, so that the successor computes all the updates of the dead one again, and with one whose
workers begin it anew, which is an ordinary restart. What recovery takes longer is compared with the compute in the
headers of these updates: at most 1.1 times as long is needed.

Leave: the same protocol in the virtual world, with functions that live for some seconds. Every request for a memory is
counted: one put and one get for each worker that a function hands over are needed.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import lambdaml
from lambdaml.events import Event
from lambdaml.log import keys
from lambdaml.log.reads import read_now
from lambdaml.log.records import Update
from lambdaml.options import RunOptions
from lambdaml.simulation.channel import Channel
from lambdaml.simulation.engine import VirtualRun
from lambdaml.simulation.platform import lambda_arm
from lambdaml.simulation.stub_replica import Costs
from lambdaml.storage.backend import Op
from lambdaml.training.asked import resolve_job, settings_for

JOB = f"{Path(__file__).parent / 'jobs.py'}:Adaptive"
KEEP, ANEW = "local:8,inner=keep", "local:8,inner=anew"
AFTER = 6
"""The number of updates of each worker after the kill."""

LIFETIME_S = 30.0
NEEDED = 1.1


@dataclass(slots=True)
class Killer:
    """A watcher that kills one of the functions at the commit of this many updates of each worker."""

    updates: int
    killed: str = ""
    killed_s: float = 0.0
    recomputed: int = 0
    pids: dict[str, int] = field(default_factory=dict)

    def __call__(self, event: Event) -> None:
        if event.event == "started" and event.pid is not None:
            self.pids[event.function] = event.pid
        if event.event == "remembered":
            self.recomputed += event.updates
        if event.event == "commit" and event.version >= self.updates and not self.killed:
            self.killed = next(name for name in self.pids if name.endswith(".1"))
            self.killed_s = time.time()
            os.kill(self.pids[self.killed], signal.SIGKILL)


def crash(url: str, algorithm: str, updates: int) -> tuple[float, float, int]:
    """Return the seconds from the death to the first new update of the dead function's worker, the seconds of compute in
    the headers of its updates before, and the number of updates that were computed again."""
    killer = Killer(updates)
    lambdaml.train(
        JOB,
        url,
        workers=2,
        functions=2,
        algorithm=algorithm,
        steps=updates + AFTER,
        recover_s=1e6,
        on_event=killer,
    )
    store, spent_s = lambdaml.Run(url).store, 0.0
    for worker in range(2):
        for info in store.list(keys.updates(worker)):
            update = read_now(store, info.key, Update.read)
            assert update is not None
            if update.function == killer.killed:
                spent_s += update.compute_s + update.encode_s
            elif spent_s:
                return info.modified - killer.killed_s, spent_s, killer.recomputed
    raise AssertionError("the killed function's worker made no update afterwards")


class Counting:
    """A fault injector that injects nothing, and counts the requests for memories."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def strike(self, op: Op, key: str, now_s: float, uniform: Callable[[], float]) -> str:
        if key.startswith(keys.MEMORY):
            self.counts[op] += 1
        return ""


def leave(workers: int, functions: int) -> tuple[int, Counter[str], int]:
    """Return how many workers were handed over in order, the requests for memories, and the updates computed again."""
    job_settings, job = resolve_job(JOB, {})
    options = RunOptions(workers=workers, algorithm=KEEP, steps=200)
    settings, counting = settings_for(job, job_settings, options), Counting()
    events: list[Event] = []
    virtual = VirtualRun(
        settings,
        functions,
        Costs(step_s=0.01, update_bytes=80_000, snapshot_bytes=160_000),
        Channel.parse("s3-standard"),
        lambda_arm(lifetime_s=LIFETIME_S),
        injector=counting,
        trace=lambda now, event: events.append(event),
    )
    virtual.run()
    left = sum(life.outcome == "left" for life in virtual.lives)
    again = sum(event.updates for event in events if event.event == "remembered")
    return left * workers // functions, counting.counts, again


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--updates", type=int, default=10, help="of each worker before the kill")
    asked = parser.parse_args()
    for workers, functions in ((4, 4), (8, 2)):
        handed, counts, again = leave(workers, functions)
        told = ", ".join(f"{count} {op}" for op, count in sorted(counts.items()))
        print(f"{workers} workers of {functions} functions: {handed} handed over; memory: {told}; {again} recomputed")
    shares: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(asked.pairs):
            restart_s, _, none = crash(f"file://{folder}/anew{number}", ANEW, asked.updates)
            recovery_s, compute_s, again = crash(f"file://{folder}/keep{number}", KEEP, asked.updates)
            assert not none and again >= asked.updates
            shares.append((recovery_s - restart_s) / compute_s)
            print(
                f"restart {restart_s:.2f} s, recovery {recovery_s:.2f} s, {again} updates of {compute_s:.2f} s computed "
                f"again: {shares[-1]:.2f} of their compute",
                flush=True,
            )
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"recovery less restart, of the compute: median {median(shares):.2f}; needed: at most {NEEDED}")


if __name__ == "__main__":
    main()
