"""Take a store down for a minute at a random moment of a run, and see which runs continue and what is lost.

    python benchmarks/outages.py [--times 20] [--seconds 60]

Runs of two functions, of every schedule in turn, are on an S3 server of this machine, each behind a gate of its own. A
gate closes once, at a random moment after the run has begun: in turn, it refuses connections, or it accepts them and
answers nothing. Every run must continue and end, no function may be taken over, the log must verify, the screen must
say once that the store cannot be reached and once that it can again, and synchronous runs must end with the bits of the
undisturbed run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import selectors
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parents[1]))

import lambdaml
from tests.storage.s3server import S3Server

JOB = f"{Path(__file__).parent / 'jobs.py'}:Paced"
WORKERS, STEPS, STEP_S = 4, 40, 0.2
SCHEDULES = ("bsp", "asp", "ssp:2", "quorum:2")
CLOSES_WITHIN_S = 8.0
"""The seconds after the first version within which the gate closes. A run works for longer than that."""


class Gate:
    """A port of this machine that leads to another one, unless it is closed.

    Args:
        to: The other port, as `host:port`.
        silent: Whether a closed gate accepts connections and passes nothing on, rather than refuse them.
    """

    def __init__(self, to: str, silent: bool) -> None:
        host, _, port = to.partition(":")
        self._to, self._silent = (host, int(port)), silent
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = "{}:{}".format(*self._listener.getsockname())
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._open = True
        threading.Thread(target=self._accept, daemon=True).start()

    def close_for(self, seconds: float) -> None:
        self._open = False
        if not self._silent:
            self._listener.close()
            self._cut()
        time.sleep(seconds)
        if not self._silent:
            host, _, port = self.address.partition(":")
            self._listener = socket.create_server((host, int(port)))
        else:
            self._cut()
        self._open = True
        if not self._silent:
            threading.Thread(target=self._accept, daemon=True).start()

    def _cut(self) -> None:
        for pair in self._pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = self._listener.accept()
                there = socket.create_connection(self._to)
                for end in (here, there):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._pairs.append((here, there))
                threading.Thread(target=self._pass_on, args=(here, there), daemon=True).start()

    def _pass_on(self, here: socket.socket, there: socket.socket) -> None:
        with selectors.DefaultSelector() as both, here, there, contextlib.suppress(OSError):
            both.register(here, selectors.EVENT_READ, there)
            both.register(there, selectors.EVENT_READ, here)
            while True:
                for key, _ in both.select():
                    data = key.fileobj.recv(65536)  # type: ignore[union-attr]
                    if not data:
                        return
                    while not self._open:
                        time.sleep(0.05)
                    key.data.sendall(data)


@dataclass
class Outcome:
    """The outcome of one run."""

    schedule: str
    kind: str
    status: int
    seconds: float
    sha256: str
    updates: int
    lost: int
    takeovers: int
    told: tuple[int, int]
    faults: int
    words: str


def train(
    url: str, schedule: str, tell: list[str], tick: threading.Event | None = None
) -> tuple[int, dict[str, object]]:
    """Run the command, pass its output to `tell`, and return its exit status and result."""
    options = ["--workers", str(WORKERS), "--functions", "2", "--steps", str(STEPS), "--snapshot-every", "20"]
    command = [sys.executable, "-m", "lambdaml.cli", "train", JOB, *options, "--schedule", schedule, "--store", url]
    process = subprocess.Popen(
        [*command, "--json", "--set", f"seconds={STEP_S}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "AWS_EC2_METADATA_DISABLED": "true"},
    )
    assert process.stdout is not None and process.stderr is not None
    for line in process.stderr:
        tell.append(line.strip())
        if tick is not None and "version" in line:
            tick.set()
    shown = process.stdout.read()
    return process.wait(), json.loads(shown) if shown.strip() else {}


def one(number: int, server: S3Server, seconds: float, seed: int) -> Outcome:
    random = Random(f"{seed}/{number}")
    schedule, silent = SCHEDULES[number % len(SCHEDULES)], number // len(SCHEDULES) % 2 == 1
    gate = Gate(urlsplit(server.endpoint).netloc, silent)
    place = f"s3://bucket/run-{number}?region=us-east-1&endpoint=http://"
    tell: list[str] = []
    begun = threading.Event()
    moment_s = random.uniform(0.0, CLOSES_WITHIN_S)

    def strike() -> None:
        begun.wait()
        time.sleep(moment_s)
        gate.close_for(seconds)

    threading.Thread(target=strike, daemon=True).start()
    start = time.monotonic()
    status, result = train(place + gate.address, schedule, tell, begun)
    took_s = time.monotonic() - start
    run = lambdaml.Run(place + urlsplit(server.endpoint).netloc)
    report = run.verify()
    due = WORKERS * STEPS if not schedule.startswith("quorum") else 0
    words = next((line for line in tell if "cannot be reached" in line), "")
    return Outcome(
        schedule,
        "silent" if silent else "refused",
        status,
        took_s,
        str(result.get("model_sha256", "")),
        int(str(result.get("updates", 0))),
        max(0, due - run.summary().fates["applied"]),
        sum("takes over" in line or "died" in line for line in tell),
        (sum("cannot be reached" in line for line in tell), sum("can be reached again" in line for line in tell)),
        len(report.faults),
        words or " | ".join(tell[-3:]),
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60.0, help="that the store is down")
    parser.add_argument("--at-once", type=int, default=4, help="runs at a time")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        _, plain = train(f"{folder}/plain", "bsp", [])
    with S3Server() as server, ThreadPoolExecutor(asked.at_once) as pool:
        server._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # connections are cut on purpose
        ended = pool.map(lambda number: one(number, server, asked.seconds, asked.seed), range(asked.times))
        found = []
        for outcome in ended:
            found.append(outcome)
            print(
                f"{outcome.schedule:>9} {outcome.kind:>8}: status {outcome.status} in {outcome.seconds:5.1f} s, "
                f"{outcome.lost} updates lost, {outcome.takeovers} takeovers and deaths, told {outcome.told}, "
                f"{outcome.faults} faults; {outcome.words}",
                flush=True,
            )
    went_on = [outcome for outcome in found if outcome.status == 0 and not outcome.faults]
    synchronous = [outcome for outcome in found if outcome.schedule == "bsp"]
    same = sum(outcome.sha256 == plain["model_sha256"] for outcome in synchronous)
    print(f"{len(went_on)} of {len(found)} runs went on, were finished and verify")
    print(f"lost: {sum(o.lost for o in found)} updates; takeovers and deaths: {sum(o.takeovers for o in found)}")
    print(f"{same} of {len(synchronous)} bsp runs ended with the bits of the undisturbed run")
    print(f"told of once, and once of its end: {sum(o.told == (1, 1) for o in found)} of {len(found)}")
    print(f"median time of a run {median(o.seconds for o in found):.0f} s, with {asked.seconds:.0f} s without a store")


if __name__ == "__main__":
    main()
