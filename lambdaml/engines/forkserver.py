"""The fork server is a process that has imported torch once, and forks a function whenever it is told to.

Commands arrive on standard input and events leave on standard output, both as lines of JSON. The server itself has one
thread and opens no store, so that forking it is safe; a function opens its store after the fork. When standard input
ends, because the engine ended, the server asks its functions to leave and ends with them.

Each function counts its requests in memory that it shares with the server, so the server knows the count even if the
function was killed between any two instructions.

The exit status of a function says how it ended. It is a number that nothing else in the process uses by chance: code
that calls `os._exit(0)` has not finished the run.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import sys
import time
import traceback
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lambdaml.engines.pipe import Voice
from lambdaml.engines.supervise import DIED, DONE, FAILED, LEFT, error_event, used
from lambdaml.events import EndedEvent, ErrorEvent, ReadyEvent, StartedEvent, UsageEvent
from lambdaml.storage import Ledger, MeterReading, read_ledger
from lambdaml.storage.ledger import in_flight

_GRACE_S = 10.0
"""Functions have this many seconds to leave before they are killed."""

_TELL_S = 0.05
"""The server looks this often, in seconds, at what functions use, and reports each function that sent a request."""

TELL_ALL_S = 0.4
"""A function that sends no requests is reported this often, in seconds."""

_SAID = 100
"""The exit status of a function is this number plus the code of its end."""


@dataclass(slots=True)
class _Child:
    """Holds a function's process, and what the function has used."""

    pid: int
    name: str
    ledger: Ledger
    began: float = field(default_factory=time.monotonic)
    told: MeterReading = field(default_factory=MeterReading)
    told_at: float = 0.0

    def usage(self, memory_bytes: int) -> UsageEvent:
        self.told, self.told_at = read_ledger(self.ledger), time.monotonic()
        event = used(self.name, self.began, memory_bytes, self.told)
        return replace(event, in_flight=sum(in_flight(self.ledger.read()).values()))

    def due(self) -> bool:
        return time.monotonic() - self.told_at > TELL_ALL_S or read_ledger(self.ledger) != self.told


def main() -> None:
    """Serve until standard input ends."""
    _die_with(os.getppid())  # only as long as no functions exist that would have to leave in good order
    voice = Voice(os.dup(1))
    os.dup2(2, 1)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a job's prints appear at once
    try:
        warm_up()
    except Exception as error:
        voice.say(_failed_to_start(error))
        voice.finish()
        os._exit(1)
    _outlive()

    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    children: dict[int, _Child] = {}
    voice.say(ReadyEvent())
    buffer = b""
    while True:
        readable, _, _ = select.select([0, wake_read], [], [], _TELL_S if children or not voice.free else None)
        if wake_read in readable:
            os.read(wake_read, 4096)
            _reap(children, voice)
        voice.flush()
        for child in children.values():
            if voice.free and child.due():
                voice.say(child.usage(_peak_bytes(child.pid)))
        if 0 in readable:
            data = os.read(0, 65536)
            if not data:
                break
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                _obey(json.loads(line), children, voice, (wake_read, wake_write))
    _end(children)


def _failed_to_start(error: Exception) -> ErrorEvent:
    if os.environ.get("LAMBDAML_TRACEBACK"):
        traceback.print_exc()
    message = f"the process that starts functions could not start: {type(error).__name__}: {error}"
    return ErrorEvent(type="RunFailed", message=message[:2000])


def warm_up() -> None:
    """Import before any fork what every function would import after it. Torch loads much of itself at its first use."""
    import safetensors.torch  # noqa: F401
    import torch

    import lambdaml.engines.entry
    import lambdaml.training.replica  # noqa: F401

    torch.set_num_threads(1)
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1).step()


def _obey(command: dict[str, Any], children: dict[int, _Child], voice: Voice, pipes: tuple[int, int]) -> None:
    if command["command"] == "leave":
        for pid in children:
            os.kill(pid, signal.SIGTERM)
        return
    parent = os.getpid()
    ledger = Ledger.shared()
    pid = os.fork()
    if pid:
        children[pid] = _Child(pid, command["name"], ledger)
        voice.say(StartedEvent(function=command["name"], pid=pid))
        return
    code = 70
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for pipe in pipes:
            os.close(pipe)
        _die_with(parent)
        code = _SAID + _function(command, voice.of_fork(), ledger)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _function(command: dict[str, Any], voice: Voice, ledger: Ledger) -> int:
    """Run as a function, and return the code of its end."""
    from lambdaml.engines.entry import FUNCTION, run_function
    from lambdaml.storage import Meter

    told = False

    def leave(*_: Any) -> None:
        nonlocal told
        told = True

    signal.signal(signal.SIGTERM, leave)
    if "PYTHONBREAKPOINT" not in os.environ:
        sys.breakpointhook = _no_terminal
    name = os.environ[FUNCTION] = command["name"]
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    try:
        outcome = run_function(
            command["url"],
            name,
            command["assigned"],
            dead=command["dead"],
            device=command["device"],
            lifetime_s=command["lifetime_s"] or float("inf"),
            emit=lambda event: voice.say(replace(event, function=name)),
            leaving=lambda: told,
            meter=Meter(ledger),
        )
    except Exception as error:
        voice.say(error_event(name, error))
        if os.environ.get("LAMBDAML_TRACEBACK"):
            traceback.print_exc()
        return FAILED
    finally:
        voice.finish()
    return DONE if outcome == "done" else LEFT


def _no_terminal(*_: Any, **__: Any) -> None:
    """Refuse a `breakpoint()` of the job."""
    from lambdaml.errors import JobError

    raise JobError("breakpoint() needs a terminal, which functions do not have: add --engine inline --functions 1")


def _reap(children: dict[int, _Child], voice: Voice) -> None:
    for pid in list(children):
        done, status, used = os.wait4(pid, os.WNOHANG)
        if done:
            child = children.pop(pid)
            voice.say(child.usage(1024 * used.ru_maxrss))
            voice.say(_end_of(child.name, os.waitstatus_to_exitcode(status)))


def _end_of(name: str, status: int) -> EndedEvent:
    """Return the event with the code of a function's end, and with the reason in words if the function did not give
    it."""
    if status - _SAID in (DONE, LEFT, FAILED):
        return EndedEvent(function=name, code=status - _SAID)
    if status < 0:
        return EndedEvent(function=name, code=status)
    reason = f"the job's process ended itself without having finished, with exit status {status}"
    return EndedEvent(function=name, code=DIED, reason=reason)


def _peak_bytes(pid: int) -> int:
    """Return the peak memory of the process so far; 0 if it is unknown."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)
    except OSError:
        return 0


def _end(children: dict[int, _Child]) -> None:
    for pid in children:
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE_S
    while children and time.monotonic() < deadline:
        time.sleep(0.02)
        for pid in list(children):
            if os.waitpid(pid, os.WNOHANG)[0]:
                del children[pid]
    for pid in children:
        os.kill(pid, signal.SIGKILL)


def _die_with(parent: int) -> None:
    """Let the kernel kill this process when its parent dies, if it can (Linux)."""
    _on_death_of_parent(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _outlive() -> None:
    """Undo `_die_with`: from now on, the end of standard input shows that the parent has died."""
    _on_death_of_parent(0)


def _on_death_of_parent(number: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        set_death_signal = 1
        ctypes.CDLL(None).prctl(set_death_signal, number)


if __name__ == "__main__":
    main()
    os._exit(0)  # the engine waits for the end, and a normal exit with torch takes half a second
