"""Kill the process that started a run on Ray, resume the run at once, and measure the seconds until it works again.

    python benchmarks/ray_resume.py
    python benchmarks/ray_resume.py 3 --own --schedule asp

Another process starts a run of two functions, on this process's Ray, or with `--own` on one that it has started itself.
After some commits that process gets SIGKILL, and the run is resumed here. The time from the kill to the first log entry
by a function of the resumed run is counted; it includes the start of Ray, if one had to be started, which is also
reported separately. Functions say when they take over workers that they began without; those that swap workers do so
more often than there are workers. Each run must be at work within one lease and 10 s.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import lambdaml
from lambdaml.engines.ray import RayEngine
from lambdaml.events import Event
from lambdaml.log import keys
from lambdaml.log.reads import read_now
from lambdaml.log.records import Commit
from lambdaml.storage import Store, open_store

JOB = f"{Path(__file__).parent / 'jobs.py'}:Convolutions"
WORKERS = 4
BEFORE = 20
"""The number of log entries after which the process is killed."""

SETTLE_S = 5.0
"""The seconds for which the resumed run continues, in which workers might be swapped."""

STARTER = """
import sys, lambdaml, lambdaml.ray
job, url, address, schedule, lease = sys.argv[1:]
lambdaml.ray.train(job, url, address=address, workers=4, functions=2, steps=100_000, schedule=schedule,
    snapshot_every=100, lease_s=float(lease))
"""


def newest_writer(store: Store, seen: int) -> tuple[int, str]:
    """Return how long the log is, given that it has `seen` entries, and who wrote the last one."""
    infos = list(store.list(keys.LOG, after=keys.log(seen - 1) if seen else ""))
    commit = read_now(store, infos[-1].key, Commit.read) if infos else None
    return seen + len(infos), commit.function if commit is not None else ""


class Watch:
    """A watcher that waits for the resumed run's first commit, lets it run a little longer, and interrupts it."""

    def __init__(self, killed_at: float) -> None:
        self.killed_at = killed_at
        self.working_s: float | None = None
        self.started_s: float | None = None
        self.takeovers = 0

    def __call__(self, event: Event) -> None:
        now_s = time.monotonic() - self.killed_at
        if event.event == "started" and self.started_s is None:
            self.started_s = now_s
        self.takeovers += event.event == "takeover"
        if event.event == "commit" and self.working_s is None:
            self.working_s = now_s
        if self.working_s is not None and now_s > self.working_s + SETTLE_S:
            raise KeyboardInterrupt


def once(url: str, held: RayEngine | None, schedule: str, lease_s: float) -> tuple[float, str]:
    """Return the seconds from the kill to the first new commit, and a remark about it."""
    import ray

    address = ray.get_runtime_context().gcs_address if held is not None else "local"
    store = open_store(url)
    command = [sys.executable, "-c", STARTER, JOB, url, address, schedule, str(lease_s)]
    first = subprocess.Popen(command)
    length = 0
    while length < BEFORE:
        time.sleep(0.1)
        assert first.poll() is None, "it ended by itself"
        length = sum(1 for _ in store.list(keys.LOG))
    first.kill()
    watch = Watch(time.monotonic())
    first.wait()
    _, old = newest_writer(store, length - 1)
    engine = held or RayEngine("local")
    engine.start()
    ray_s = time.monotonic() - watch.killed_at
    try:
        lambdaml.resume(url, engine="ray", functions=2, on_event=watch)
    except KeyboardInterrupt:
        pass
    if held is None:
        engine.close()
    commits = [(info.modified, read_now(store, info.key, Commit.read)) for info in store.list(keys.LOG)]
    prefix = old.partition(".")[0]
    olds = [modified for modified, commit in commits if commit and commit.function.startswith(prefix)]
    news = [modified for modified, commit in commits if commit and not commit.function.startswith(prefix)]
    store.close()
    assert watch.working_s is not None and watch.started_s is not None
    outlived_s = olds[-1] - (time.time() - (time.monotonic() - watch.killed_at))
    return watch.working_s, (
        f"Ray was there after {ray_s:.1f} s, a function after {watch.started_s:.1f} s; the old ones' last log entry came "
        f"{outlived_s:+.1f} s after the kill; {watch.takeovers} takeovers, {len(news)} new entries"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("times", type=int, nargs="?", default=10)
    parser.add_argument("--lease", type=float, default=10.0)
    parser.add_argument("--schedule", default="bsp")
    parser.add_argument("--own", action="store_true", help="each process starts a Ray of its own, on each resume, too")
    asked = parser.parse_args()
    held = None
    if not asked.own:
        began = time.monotonic()
        held = RayEngine("local")
        held.start()
        print(f"Ray started in {time.monotonic() - began:.1f} s")
    seconds: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(1, asked.times + 1):
            took_s, told = once(f"file://{folder}/run{number}", held, asked.schedule, asked.lease)
            seconds.append(took_s)
            print(f"{number:3d}  working again {took_s:.1f} s after the kill; {told}", flush=True)
    if held is not None:
        held.close()
    needed_s = asked.lease + 10
    within = sum(took_s <= needed_s for took_s in seconds)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, lease {asked.lease:g} s, {asked.schedule}")
    print(f"seconds: least {min(seconds):.1f}, median {median(seconds):.1f}, most {max(seconds):.1f}")
    print(f"within one lease and 10 s: {within} of {len(seconds)}")


if __name__ == "__main__":
    main()
