"""A process that has imported torch once, and forks a function whenever it is told to.

Commands come on standard input, events leave on standard output, both as lines of JSON. The server itself has one
thread and opens no store, so that forking it is safe; a function opens its store after the fork. When standard input
ends, because the engine ended, the server asks its functions to leave and ends with them.
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
from typing import Any

GRACE_S = 10.0
"""Seconds that functions have to leave before they are killed."""

_LINE_LIMIT = 4000
"""Writes to a pipe of at most 4096 bytes are atomic, so lines of several processes never mix."""


def main() -> None:
    """Serve until standard input ends."""
    warm_up()

    events = os.dup(1)
    os.dup2(2, 1)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    children: dict[int, str] = {}
    _say(events, {"event": "ready"})
    buffer = b""
    while True:
        readable, _, _ = select.select([0, wake_read], [], [])
        if wake_read in readable:
            os.read(wake_read, 4096)
            _reap(children, events)
        if 0 in readable:
            data = os.read(0, 65536)
            if not data:
                break
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                _obey(json.loads(line), children, events, (wake_read, wake_write))
    _end(children)


def warm_up() -> None:
    """Import before any fork what every function would import after it; torch loads much of itself when first used."""
    import safetensors.torch  # noqa: F401
    import torch

    import lambdaml.entry
    import lambdaml.replica  # noqa: F401

    torch.set_num_threads(1)
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1).step()


def _obey(command: dict[str, Any], children: dict[int, str], events: int, pipes: tuple[int, int]) -> None:
    if command["command"] == "leave":
        for pid in children:
            os.kill(pid, signal.SIGTERM)
        return
    parent = os.getpid()
    pid = os.fork()
    if pid:
        children[pid] = command["name"]
        _say(events, {"event": "started", "function": command["name"], "pid": pid})
        return
    code = 70
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for pipe in pipes:
            os.close(pipe)
        _die_with(parent)
        code = _function(command, events)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _function(command: dict[str, Any], events: int) -> int:
    """Be a function; the exit status is the code of its end."""
    from lambdaml.engines.supervise import DONE, FAILED, LEFT, error_event
    from lambdaml.entry import FUNCTION, run_function

    told = False

    def leave(*_: Any) -> None:
        nonlocal told
        told = True

    signal.signal(signal.SIGTERM, leave)
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
            emit=lambda event: _say(events, {"function": name, **event}),
            leaving=lambda: told,
        )
    except Exception as error:
        _say(events, error_event(name, error))
        if os.environ.get("LAMBDAML_TRACEBACK"):
            traceback.print_exc()
        return FAILED
    return DONE if outcome == "done" else LEFT


def _say(events: int, event: dict[str, Any]) -> None:
    line = json.dumps(event).encode()
    if len(line) > _LINE_LIMIT:
        short = {key: value for key, value in event.items() if not isinstance(value, list)}
        line = json.dumps(short).encode()[:_LINE_LIMIT]
    with contextlib.suppress(BrokenPipeError):
        os.write(events, line + b"\n")


def _reap(children: dict[int, str], events: int) -> None:
    for pid in list(children):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            _say(events, {"event": "ended", "function": children.pop(pid), "code": os.waitstatus_to_exitcode(status)})


def _end(children: dict[int, str]) -> None:
    for pid in children:
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_S
    while children and time.monotonic() < deadline:
        time.sleep(0.02)
        for pid in list(children):
            if os.waitpid(pid, os.WNOHANG)[0]:
                del children[pid]
    for pid in children:
        os.kill(pid, signal.SIGKILL)


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, where it can (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        set_death_signal = 1
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


if __name__ == "__main__":
    main()
