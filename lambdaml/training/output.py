"""This module captures what the user's code prints or logs in a function, within bounds. It still appears where it did.

While functions run in a process, `sys.stdout` and `sys.stderr` are streams that write what they are given to the streams
before them, and keep a copy of it for the function on whose behalf the code runs, which a context variable tells. Records
of `logging` are copied when they are made, so that they have a level, and so that no handler is needed or disturbed; what
a handler then prints of them is not copied again. Threads that the code starts, other processes, and code in C that writes
to descriptors are not captured.

The lines of a part of a trace have `PART_BYTES`, and those of a function `FUNCTION_BYTES` and then `LAST_BYTES` in each
further part. What is too much is left out in the middle: the first lines say how things began, and the last what came
before the end, which may be the end of the function.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import CodeType, FrameType
from typing import Any, TextIO

PART_BYTES = 32 * 1024
"""The lines in one part of a trace have at most about this many bytes."""

FUNCTION_BYTES = 2**20
"""The lines of one function have at most about this many bytes, apart from `LAST_BYTES` in each part after that."""

LAST_BYTES = 2 * 1024
"""The lines of a part have this many bytes even if the function has had all its bytes."""

LINE_CHARACTERS = 2000
"""A line, or the text of a record of `logging`, is cut after this many characters."""

_ROW_BYTES = 80
"""The row of a line has about this many bytes besides its text."""

_HANDLE: CodeType = logging.Handler.handle.__code__

_Row = dict[str, Any]
_Turn = tuple[int, int]

_OUTPUT: ContextVar[Output | None] = ContextVar("output", default=None)
_TURN: ContextVar[_Turn | None] = ContextVar("turn", default=None)


class Output:
    """Collects what one function's code prints and logs. Several threads may use it at once."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a finalizer may print while this thread holds it
        self._open: dict[str, _Line] = {}
        self._rows = _Rows(PART_BYTES)
        self._left_bytes = FUNCTION_BYTES
        self._logged = False
        self._began: list[_Row] = [{"kind": "began", "at_s": self.now()}]

    def now(self) -> float:
        """Return the seconds on the function's clock."""
        return round(time.perf_counter(), 6)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Collect what the calling thread, or the coroutine, prints and logs in the block."""
        token = _OUTPUT.set(self)
        try:
            yield
        finally:
            _OUTPUT.reset(token)

    def write(self, stream: str, text: str) -> None:
        """Add text that was written to a stream."""
        if self._logged:
            if _within_a_handler():
                return
            self._logged = False
        at_s, turn = self.now(), _TURN.get()
        with self._lock:
            line = self._open.get(stream)
            if line is not None and line.turn != turn:
                self._finish(stream)
            *whole, rest = text.split("\n")
            for piece in whole:
                self._add(stream, piece, at_s, turn)
                self._finish(stream)
            if rest:
                self._add(stream, rest, at_s, turn)

    def log(self, record: logging.LogRecord) -> None:
        """Add a record of `logging`."""
        self._logged = True
        row = {"level": record.levelname, "logger": record.name}
        line = _Line(self.now(), _TURN.get(), _message(record))
        with self._lock:
            self._rows.add(line.row(row))

    def take(self) -> list[_Row]:
        """Return what was added since the last call, as rows of the function's trace. Lines that are not finished are cut
        there. The first row of all says when the function began."""
        with self._lock:
            for stream in list(self._open):
                self._finish(stream)
            began, self._began = self._began, []
            rows = self._rows
            self._left_bytes -= rows.size_bytes
            self._rows = _Rows(max(LAST_BYTES, min(PART_BYTES, self._left_bytes)))
        return began + rows.all()

    def _add(self, stream: str, piece: str, at_s: float, turn: _Turn | None) -> None:
        line = self._open.get(stream)
        if line is None:
            line = self._open[stream] = _Line(at_s, turn)
        line.add(piece)

    def _finish(self, stream: str) -> None:
        self._rows.add(self._open.pop(stream).row({"stream": stream}))


class _Line:
    """Holds a line that may go on, as a terminal would show it: what follows a carriage return replaces the line."""

    def __init__(self, at_s: float, turn: _Turn | None, text: str = "") -> None:
        self.turn = turn
        self._at_s = at_s
        self._text = ""
        self._more = 0
        self._returned = False
        self._extend(text)

    def add(self, piece: str) -> None:
        """Add a piece of text without a newline."""
        for number, part in enumerate(piece.split("\r")):
            self._returned |= number > 0
            if part and self._returned:
                self._text, self._more, self._returned = "", 0, False
            self._extend(part)

    def _extend(self, text: str) -> None:
        fits = text[: LINE_CHARACTERS - len(self._text)]
        self._text += fits
        self._more += len(text) - len(fits)

    def row(self, source: _Row) -> _Row:
        """Return the row of the trace."""
        row: _Row = {"kind": "log", "at_s": self._at_s, **source}
        if self.turn is not None:
            row["worker"], row["seq"] = self.turn
        return row | {"text": f"{self._text} ({self._more:,} characters left out)" if self._more else self._text}


class _Rows:
    """Holds rows of at most about this many bytes: the first ones and the last ones."""

    def __init__(self, limit_bytes: int) -> None:
        self.size_bytes = 0
        self._half_bytes = limit_bytes // 2
        self._first: list[_Row] = []
        self._last: deque[tuple[int, _Row]] = deque()
        self._last_bytes = 0
        self._left_out: _Row | None = None

    def add(self, row: _Row) -> None:
        size_bytes = len(json.dumps(row["text"])) + _ROW_BYTES
        self.size_bytes += size_bytes
        if not self._last and self.size_bytes <= self._half_bytes:
            self._first.append(row)
            return
        self._last.append((size_bytes, row))
        self._last_bytes += size_bytes
        while self._last_bytes > self._half_bytes and len(self._last) > 1:
            dropped_bytes, dropped = self._last.popleft()
            self._last_bytes -= dropped_bytes
            self.size_bytes -= dropped_bytes
            if self._left_out is None:
                self._left_out = {"kind": "log", "at_s": dropped["at_s"], "left_out": 0}
            self._left_out["left_out"] += 1

    def all(self) -> list[_Row]:
        """Return the rows, with one in place of those that were left out."""
        return [*self._first, *([self._left_out] if self._left_out else []), *(row for _, row in self._last)]


@contextmanager
def speaking_for(worker: int, seq: int) -> Iterator[None]:
    """Mark a block in which the user's code runs for this worker's update."""
    token = _TURN.set((worker, seq))
    try:
        yield
    finally:
        _TURN.reset(token)


@contextmanager
def captured(output: Output | None = None) -> Iterator[Output]:
    """Let an output collect, during the block, what is printed and logged while it is `listening`.

    Args:
        output: The output; by default a new one.
    """
    _taps.open()
    try:
        yield output or Output()
    finally:
        _taps.close()


class _Tap:
    """A stream that passes on all that it is given, and shows it to the output that listens."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream = stream
        self._name = name

    def write(self, text: str) -> int:
        count = self._stream.write(text)
        output = _OUTPUT.get()
        if output is not None:
            output.write(self._name, text)
        return count

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Taps:
    """Puts taps on this process's streams and on `logging` as long as anybody captures, and takes them off again unless
    somebody else has put something over them."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._users = 0
        self._before: dict[str, tuple[Any, _Tap]] = {}

    def open(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._put_on()

    def close(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._take_off()

    def _put_on(self) -> None:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is not None:
                self._before[name] = stream, _Tap(stream, name)
                setattr(sys, name, self._before[name][1])
        made = logging.getLogRecordFactory()

        def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
            record = made(*args, **kwargs)
            output = _OUTPUT.get()
            if output is not None:
                output.log(record)
            return record

        self._factories = made, factory
        logging.setLogRecordFactory(factory)

    def _take_off(self) -> None:
        for name, (stream, tap) in self._before.items():
            if getattr(sys, name) is tap:
                setattr(sys, name, stream)
        self._before.clear()
        made, mine = self._factories
        if logging.getLogRecordFactory() is mine:
            logging.setLogRecordFactory(made)


_taps = _Taps()


def _within_a_handler() -> bool:
    """Return whether the caller was called by a handler of `logging`."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if frame.f_code is _HANDLE:
            return True
        frame = frame.f_back
    return False


def _message(record: logging.LogRecord) -> str:
    try:
        text = record.getMessage()
    except Exception:  # the arguments do not fit, which handlers report
        text = str(record.msg)
    if record.exc_info and record.exc_info[0] is not None:
        text += "\n" + logging.Formatter().formatException(record.exc_info)
    return text
