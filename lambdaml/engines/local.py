"""Functions as processes of this machine, forked from a server that has imported torch once.

A function that dies is replaced at once, and its workers' leases are free at once, since the engine saw it die. What
it had computed and not published is computed again.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lambdaml import keys
from lambdaml.engines import Emit, Launch
from lambdaml.engines.supervise import ENVIRONMENT, ONE_CORE, supervise
from lambdaml.errors import RunFailed
from lambdaml.reads import read_now
from lambdaml.records import Lease
from lambdaml.storage import Store
from lambdaml.worlds.live import OneThread


class LocalEngine:
    """Runs each function in a process of its own."""

    takes_objects = False
    in_process = False

    def __init__(self) -> None:
        self._compute = OneThread()
        self._server: subprocess.Popen[bytes] | None = None
        self._used = False
        self._count = itertools.count(1)

    @property
    def compute(self) -> OneThread:
        return self._compute

    def start(self) -> None:
        """Start the server, which imports torch."""
        if self._server is None:
            environment = {**ENVIRONMENT, **os.environ, **ONE_CORE}
            self._server = subprocess.Popen(
                [sys.executable, "-P", "-m", "lambdaml.engines.forkserver"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
                start_new_session=True,  # Ctrl-C is the engine's to handle
            )

    def run(self, launch: Launch, emit: Emit) -> None:
        self.start()
        assert self._server is not None
        self._used = True
        dead = gone_holders(launch.store, launch.settings.workers)
        supervise(_Forks(self._server, launch, self._count), launch.functions, emit, dead)

    def close(self) -> None:
        if self._server is not None and self._server.stdin is not None:
            if not self._used:
                self._server.kill()  # it may be busy with importing torch for seconds, for nothing
            self._server.stdin.close()
            self._server.wait()
            self._server = None
        self._compute.shutdown(wait=True)


class _Forks:
    """Functions forked by one server."""

    def __init__(self, server: subprocess.Popen[bytes], launch: Launch, count: Iterator[int]) -> None:
        self._server = server
        self._launch = launch
        self._count = count

    def start(self, index: int, dead: Sequence[str]) -> str:
        launch = self._launch
        name = f"{function_prefix(self._server.pid)}.{next(self._count)}"
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
        return name

    def leave(self) -> None:
        self._tell({"command": "leave"})

    def events(self) -> Iterator[dict[str, Any]]:
        assert self._server.stdout is not None
        for line in self._server.stdout:
            try:
                yield json.loads(line)
            except ValueError:
                continue
        raise RunFailed("the process that starts functions is gone; resume the run to go on")

    def _tell(self, command: dict[str, Any]) -> None:
        assert self._server.stdin is not None
        try:
            self._server.stdin.write(json.dumps(command).encode() + b"\n")
            self._server.stdin.flush()
        except BrokenPipeError:
            raise RunFailed("the process that starts functions is gone; resume the run to go on") from None


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
        lease = read_now(store, key, Lease.read)
        if lease is None:
            continue
        holder = lease.function
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
