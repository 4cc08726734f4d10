"""Run a command under a terminal of its own, in which Ctrl-C is pressed at some moment."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

CTRL_C = b"\x03"
LOOK_S = 0.01

Moment = Callable[[int, float, str], bool]
"""Whether to press, given the command's process, the seconds since its start and what it has shown so far."""


@dataclass(frozen=True, slots=True)
class Shown:
    """The end of a command in a terminal.

    Attributes:
        code: The exit status, or None if it had not ended in time and was killed.
        text: The output in the terminal, including control sequences.
        seconds: The seconds from start to end.
        end_s: The seconds from Ctrl-C to the end, or None if it was not pressed.
    """

    code: int | None
    text: str
    seconds: float
    end_s: float | None


def in_terminal(
    command: Sequence[str],
    moment: Moment = lambda pid, seconds, text: False,
    limit_s: float = 60,
    columns: int = 80,
) -> Shown:
    """Run a command in a terminal of so many columns, press Ctrl-C when the moment has come, and wait for its end.

    Args:
        limit_s: The seconds without output, or after Ctrl-C, after which it is killed.
    """
    started, closed_by_exec = os.pipe()
    pid, terminal = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell makes background processes ignore it
        os.execvpe(command[0], list(command), {**os.environ, "TERM": "xterm"})
    os.close(closed_by_exec)
    os.read(started, 1)  # before that, Ctrl-C would strike a copy of this process
    os.close(started)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    began = heard = time.monotonic()
    pressed: float | None = None
    text = ""
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        now = time.monotonic()
        fresh = _read(terminal)
        text += fresh
        if ended:
            break
        heard = now if fresh and pressed is None else heard
        if pressed is None and moment(pid, now - began, text):
            os.write(terminal, CTRL_C)
            pressed = heard = now
        if now - heard > limit_s:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            break
        select.select([terminal], [], [], LOOK_S)
    os.close(terminal)
    code = os.waitstatus_to_exitcode(status) if ended else None
    return Shown(code, text, now - began, None if pressed is None else now - pressed)


def _read(terminal: int) -> str:
    data = b""
    while select.select([terminal], [], [], 0)[0]:
        try:
            more = os.read(terminal, 65536)
        except OSError:  # no process has it open any more
            break
        if not more:
            break
        data += more
    return data.decode(errors="replace")
