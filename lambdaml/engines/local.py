"""Functions as processes of this machine, forked from a server that has imported torch once.

A function that dies is replaced at once, and its workers' leases are free at once, since the engine saw it die. What
it had computed and not published is computed again.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lambdaml import errors, keys
from lambdaml.engines import Emit, Launch
from lambdaml.errors import LambdaMLError, RunFailed
from lambdaml.records import Lease
from lambdaml.storage import Store, StoreUnavailable
from lambdaml.worlds.live import OneThread

ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32)}
"""Settings of glibc's allocator that keep freed memory for the next step, instead of faulting in fresh pages."""

MAX_BARREN = 5
"""Functions that may die one after the other without any commit in between."""


class LocalEngine:
    """Runs each function in a process of its own."""

    def __init__(self) -> None:
        self._compute = OneThread()
        self._server: subprocess.Popen[bytes] | None = None
        self._count = 0

    @property
    def compute(self) -> OneThread:
        return self._compute

    def start(self) -> None:
        """Start the server, which imports torch."""
        if self._server is None:
            environment = {**ALLOCATOR, **os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
            self._server = subprocess.Popen(
                [sys.executable, "-m", "lambdaml.engines.forkserver"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
                start_new_session=True,  # Ctrl-C is the engine's to handle
            )

    def run(self, launch: Launch, emit: Emit) -> None:
        self.start()
        dead = list(gone_holders(launch.store, launch.settings.workers))
        barren = 0
        running: dict[str, int] = {}
        for index in range(launch.functions):
            self._fork(launch, index, dead, running)
        error: LambdaMLError | None = None
        try:
            for event in self._events():
                kind, name = event["event"], event.get("function", "")
                emit(event)
                if kind == "commit":
                    barren = 0
                elif kind == "error":
                    revived = _revive(event)
                    if error is None and not isinstance(revived, StoreUnavailable):
                        error = revived
                        self._tell({"command": "leave"})
                elif kind == "ended":
                    index = running.pop(name)
                    if event["code"] not in (0, 1) and error is None:
                        barren += 1
                        dead.append(name)
                        if barren > MAX_BARREN:
                            error = RunFailed(_why(event["code"], barren))
                            self._tell({"command": "leave"})
                    if event["code"] != 0 and error is None:
                        self._fork(launch, index, dead, running)
                    if not running:
                        break
        except KeyboardInterrupt:
            self._drain(running, emit)
            raise
        if error is not None:
            raise error

    def _fork(self, launch: Launch, index: int, dead: list[str], running: dict[str, int]) -> None:
        assert self._server is not None
        self._count += 1
        name = f"{function_prefix(self._server.pid)}.{self._count}"
        running[name] = index
        self._tell(
            {
                "command": "fork",
                "name": name,
                "url": launch.store.url,
                "assigned": launch.assigned(index),
                "dead": dead[-32:],
                "device": launch.device,
                "lifetime_s": launch.lifetime_s if launch.lifetime_s < float("inf") else None,
            }
        )

    def _tell(self, command: dict[str, Any]) -> None:
        assert self._server is not None and self._server.stdin is not None
        try:
            self._server.stdin.write(json.dumps(command).encode() + b"\n")
            self._server.stdin.flush()
        except BrokenPipeError:
            raise RunFailed("the process that starts functions is gone; resume the run to go on") from None

    def _events(self) -> Iterator[dict[str, Any]]:
        assert self._server is not None and self._server.stdout is not None
        for line in self._server.stdout:
            try:
                yield json.loads(line)
            except ValueError:
                continue
        raise RunFailed("the process that starts functions is gone; resume the run to go on")

    def _drain(self, running: dict[str, int], emit: Emit) -> None:
        """Ask all functions to leave, and wait until they have."""
        self._tell({"command": "leave"})
        for event in self._events():
            emit(event)
            if event["event"] == "ended":
                running.pop(event["function"], None)
            if not running:
                return

    def close(self) -> None:
        if self._server is not None and self._server.stdin is not None:
            self._server.stdin.close()
            self._server.wait()
            self._server = None
        self._compute.shutdown(wait=True)


def function_prefix(pid: int) -> str:
    """Begins the name of every function forked by process `pid` of this machine, and of no other."""
    host = "".join(letter if letter.isalnum() or letter == "-" else "-" for letter in socket.gethostname())
    return f"{host}.{pid}-{_start_time(pid)}"


def gone_holders(store: Store, workers: int) -> Iterator[str]:
    """Functions of this machine that hold a lease of the run although their process has ended."""
    host, _, _ = function_prefix(os.getpid()).rpartition(".")
    latest: dict[str, str] = {}
    for info in store.list(keys.LEASES):
        latest[info.key.rsplit("/", 1)[0]] = info.key
    for key in latest.values():
        data = store.get(key)
        if data is None:
            continue
        worker, generation = (int(part) for part in key.split("/")[1:])
        holder = Lease.unpack(data, worker, generation).function
        where, _, _ = holder.rpartition(".")
        if where.startswith(f"{host}.") and "-" in where:
            pid, _, started = where.rpartition(".")[2].partition("-")
            if pid.isdigit() and _start_time(int(pid)) != started:
                yield holder


def _start_time(pid: int) -> str:
    """When the process started, in the kernel's ticks; tells apart processes that reuse a number. "" if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _revive(event: dict[str, Any]) -> LambdaMLError:
    kind = getattr(errors, event["type"], RunFailed)
    return kind(event["message"]) if issubclass(kind, LambdaMLError) else RunFailed(event["message"])


def _why(code: int, times: int) -> str:
    if code == -9:
        return f"functions were killed {times} times in a row without progress: is the machine out of memory?"
    return f"functions ended with status {code} {times} times in a row without progress"
