"""The engine `local` runs functions as processes of this machine, forked from a server that has imported torch once.

A function that dies is replaced at once, and its workers' leases are free at once, since the engine saw it die. Updates
that it had computed and not published are computed again. The server may die, too: its functions die with it if the
kernel can do that (Linux), and another server starts others in their place.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lambdaml.engines import LaunchSpec
from lambdaml.engines.supervise import ENVIRONMENT, supervise
from lambdaml.events import Emit, EndedEvent, Event, event_of
from lambdaml.log import keys
from lambdaml.log.lease import Lease
from lambdaml.log.reads import read_now
from lambdaml.storage import Store
from lambdaml.training.numerics import ONE_CORE
from lambdaml.training.one_thread import OneThread

LOOK_S = 0.25
"""The engine checks this often, in seconds, whether the server lives. The server's pipe also shows its end, unless a
process that a function started holds it open."""


class LocalEngine:
    """Runs each function in a process of its own."""

    takes_objects = False
    in_process = False
    nearby = True

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
        self.server()

    def server(self) -> subprocess.Popen[bytes]:
        """Return the server; start a new one if the last is known to have died."""
        if self._server is not None and self._server.returncode is not None:
            self._forget()
        if self._server is None:
            environment = {**ENVIRONMENT, **os.environ, **ONE_CORE}
            self._server = subprocess.Popen(
                [sys.executable, "-P", "-m", "lambdaml.engines.forkserver"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,  # bytes still buffered for a dead server would raise when its pipe is closed
                env=environment,
                start_new_session=True,  # the engine handles Ctrl-C
            )
        return self._server

    def run(self, launch: LaunchSpec, emit: Emit) -> None:
        self._used = True
        dead = gone_holders(launch.store, launch.settings.workers)
        supervise(_Forks(self, launch, self._count), launch.functions, emit, dead)

    def close(self) -> None:
        if self._server is not None:
            if not self._used:
                self._server.kill()  # it may be importing torch for seconds, which nobody needs any more
            self._forget()
        self._compute.shutdown(wait=True)

    def _forget(self) -> None:
        server, self._server = self._server, None
        assert server is not None and server.stdin is not None and server.stdout is not None
        server.stdin.close()
        server.wait()
        server.stdout.close()


class _Forks:
    """Manages functions that a server forks, or the next server if that one dies."""

    def __init__(self, engine: LocalEngine, launch: LaunchSpec, count: Iterator[int]) -> None:
        self._engine = engine
        self._server = engine.server()
        self._prefix = function_prefix(self._server.pid)
        self._launch = launch
        self._count = count
        self._alive: dict[str, None] = {}
        self._lost: deque[Event] = deque()
        self._heard = b""
        self._leaving = False

    def start(self, index: int, dead: Sequence[str]) -> str:
        launch = self._launch
        name = f"{self._prefix}.{next(self._count)}"
        self._alive[name] = None
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
        self._leaving = True
        self._tell({"command": "leave"})

    def events(self) -> Iterator[Event]:
        while True:
            while self._lost:
                yield self._lost.popleft()
            for event in self._said():
                if event.event == "ended":
                    self._alive.pop(event.function, None)
                yield event
            self._lost.extend(_lost_with(self._server, list(self._alive)))
            self._alive.clear()
            if not self._leaving:
                self._server = self._engine.server()
                self._prefix, self._heard = function_prefix(self._server.pid), b""
            elif not self._lost:
                return

    def _said(self) -> Iterator[Event]:
        """Yield the events of the server and its functions until the server has ended."""
        assert self._server.stdout is not None
        pipe = self._server.stdout.fileno()
        while True:
            while b"\n" in self._heard:
                line, _, self._heard = self._heard.partition(b"\n")
                with contextlib.suppress(ValueError):  # the library of a job may have written there
                    if (event := event_of(json.loads(line))) is not None:
                        yield event
            ended = self._server.poll() is not None  # look at it first: the pipe then has all that it said
            readable, _, _ = select.select([pipe], [], [], 0.0 if ended else LOOK_S)
            data = os.read(pipe, 65536) if readable else b""
            if (readable or ended) and not data:
                return
            self._heard += data

    def _tell(self, command: dict[str, Any]) -> None:
        assert self._server.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `events` reports the server's end
            self._server.stdin.write(json.dumps(command).encode() + b"\n")


def _lost_with(server: subprocess.Popen[bytes], functions: Iterable[str]) -> Iterator[Event]:
    """Yield the ends of functions that died with their server."""
    status = server.wait()
    how = f"signal {-status}" if status < 0 else f"exit status {status}"
    reason = f"the process that starts functions ended, with {how}"
    for name in functions:
        yield EndedEvent(function=name, code=min(-1, status), reason=reason, uncounted=True)


def function_prefix(pid: int) -> str:
    """Return the text that begins the names of all functions forked by process `pid` of this machine, and no others."""
    host = "".join(letter if letter.isalnum() or letter == "-" else "-" for letter in socket.gethostname())
    return f"{host}.{pid}-{_start_time(pid)}"


def gone_holders(store: Store, workers: int) -> Iterator[str]:
    """Yield the functions of this machine that hold a lease of the run although their process has ended."""
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
    """Return when the process started, in the kernel's ticks, to distinguish processes that reuse a number; "" if it is
    gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""
