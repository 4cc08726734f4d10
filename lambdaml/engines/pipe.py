"""Events travel on a pipe as lines of JSON. A writer never waits for the reader.

The pipe has many writers, a fork server and its functions, and one reader, which may be slow or stop reading. A line is
written whole or not at all. A line that finds no room waits in its writer, or is dropped if a later event of its kind
says more.
"""

from __future__ import annotations

import json
import os
import select
from collections import deque
from collections.abc import Mapping
from typing import Any

from lambdaml.events import Event

LINE_BYTES = 4000
"""A line has at most this many bytes. Writes to a pipe of at most 4096 bytes are atomic, so lines of several processes
never mix."""

MOST_UNSAID = 1000
"""At most this many lines wait for room in one writer."""

_LATER_SAYS_MORE = {"commit", "waiting", "outage"}
_NEVER_LOST = {"error", "ended"}


class Voice:
    """Writes to the pipe as one of its writers. Every writer sets the pipe to non-blocking."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._unsaid: deque[bytes] = deque()
        os.set_blocking(descriptor, False)

    def of_fork(self) -> Voice:
        """Return the voice of a process that was forked from this one, without the lines that wait here."""
        return Voice(self._descriptor)

    @property
    def free(self) -> bool:
        """True if no line waits for room."""
        return not self._unsaid

    def say(self, event: Event) -> None:
        """Write an event, now or when the pipe has room. The module's docstring says which may never be written."""
        self.flush()
        kind, waiting = event.event, len(self._unsaid)
        if not waiting or kind in _NEVER_LOST or (kind not in _LATER_SAYS_MORE and waiting < MOST_UNSAID):
            self._unsaid.append(line_of(event))
            self.flush()

    def flush(self) -> None:
        """Write the waiting lines as far as the pipe has room. If nobody reads any more, forget them."""
        try:
            while self._unsaid:
                written = os.write(self._descriptor, self._unsaid[0])
                if written == len(self._unsaid[0]):
                    self._unsaid.popleft()
                else:
                    self._unsaid[0] = self._unsaid[0][written:]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._unsaid.clear()

    def finish(self) -> None:
        """Wait until all lines are written, or nobody reads any more."""
        room = select.poll()
        room.register(self._descriptor, select.POLLOUT)
        while self._unsaid:
            room.poll()
            self.flush()


def line_of(event: Event) -> bytes:
    """Return the event as a line of JSON in UTF-8. An event that is too long loses its lists, and then the ends of its
    longest texts."""
    record = event.to_dict()
    line = _dump(record)
    if len(line) <= LINE_BYTES:
        return line
    short = {name: value for name, value in record.items() if not isinstance(value, list | tuple)}
    while len(line := _dump(short)) > LINE_BYTES:
        texts = [name for name, value in short.items() if isinstance(value, str)]
        longest = max(texts, key=lambda name: len(short[name]), default="")
        if not longest or len(short[longest]) < 2:
            break
        short[longest] = f"{short[longest][: 3 * len(short[longest]) // 4 - 1]}…"
    return line


def _dump(record: Mapping[str, Any]) -> bytes:
    # A lone surrogate, which UTF-8 cannot encode, becomes its JSON escape.
    return json.dumps(record, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"
