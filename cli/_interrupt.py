"""Handles Ctrl-C at any moment: the first one ends a command in good order, unless that takes longer than a second or
two; the second one ends it at once. SIGTERM, by which others end a process, and SIGHUP, which comes when a terminal
closes, do the same.

These signals raise nothing in the main thread, which may be anywhere: halfway through an import, in a `finally` block,
in a library that swallows exceptions, or in C code that returns in a minute. Instead the interpreter writes the
signal's number to a pipe, and a thread that reads the pipe decides what happens. It runs whatever may block in yet
another thread, so nothing can hold up the end.
"""

from __future__ import annotations

import contextlib
import functools
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that end a command in good order."""

INTERRUPTED = 130
"""The exit status of a command that Ctrl-C ended: 128 plus the signal's number, as in a shell."""

PATIENCE_S = 1.5
"""The seconds that work may take to stop when asked, before the command gives up on it."""

WITHIN_S = 1.8
"""The seconds from Ctrl-C to the end of the process, last words included."""

LEAST_WORDS_S = 0.1
"""The seconds that last words may take even if no time is left."""

NOTHING_DONE = "stopped before anything was done"

_DONE, _STOPPED, _SAID, _SPEECHLESS = 101, 102, 103, 104  # no signal has such a number


@contextmanager
def interruptible(
    stop: Callable[[], None],
    last_words: Callable[[], None],
    last_resort: Callable[[], str] = lambda: "stopped",
    *,
    patience_s: Callable[[], float] = lambda: PATIENCE_S,
    within_s: float = WITHIN_S,
) -> Iterator[None]:
    """Let the first signal within this context end the work in good order, and the second one at once.

    Either ends this process. The functions of a process that ended in this way leave by themselves. All callables are
    called in other threads.

    Args:
        stop: Makes the work raise KeyboardInterrupt soon.
        last_words: Says how the work ended, once it has raised that or `patience_s()` has passed.
        last_resort: Returns the text to print if the last words fail or are not over in time.
        patience_s: Returns the seconds that the work may take to stop.
        within_s: The seconds from the signal to the end of the process.
    """
    with _SignalPipe() as pipe:
        watch = _thread(lambda: _attend(pipe, stop, last_words, last_resort, patience_s, within_s))
        told = _DONE
        try:
            yield
        except KeyboardInterrupt:
            told = _STOPPED
            raise
        finally:
            pipe.write(told)
            watch.join()  # for ever if a signal stopped the work: the process ends meanwhile


@contextmanager
def at_once(words: str) -> Iterator[None]:
    """Let a signal within this context print `words` and end this process."""
    with _SignalPipe() as pipe:
        watch = _thread(lambda: _attend_at_once(pipe, words))
        try:
            yield
        finally:
            pipe.write(_DONE)
            watch.join()


def from_now_on(words: str) -> None:
    """Let a signal print `words` and end this process from now on, except within the other contexts of this module."""
    pipe = _SignalPipe().__enter__()
    _thread(lambda: _attend_at_once(pipe, words))


@contextmanager
def raising() -> Iterator[None]:
    """Let SIGINT within this context raise KeyboardInterrupt in the main thread, and the other signals end the process.

    This is what Python does by default.
    """
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    wakeup = signal.set_wakeup_fd(-1)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)


class _SignalPipe:
    """A pipe to which signals within this context write their numbers, and do nothing else; threads write theirs."""

    def __enter__(self) -> Self:
        _forget_in_forks()
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        # This order lets a signal in between reach the pipe that was there before.
        self._handlers = {number: signal.getsignal(number) for number in SIGNALS}
        for number, handler in self._handlers.items():
            if handler is not signal.SIG_IGN:  # a shell or nohup may want a command to ignore it
                signal.signal(number, lambda _number, _frame: None)
        self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        late = self.read(SIGNALS, 0.0)
        os.close(self._reader)
        os.close(self._writer)
        if late is not None:
            signal.raise_signal(late)

    def write(self, number: int) -> None:
        os.write(self._writer, bytes([number]))

    def read(self, wanted: Collection[int], timeout_s: float = float("inf")) -> int | None:
        """Return the next of the wanted numbers, or None if none came in time. All others are dropped."""
        poll, deadline = select.poll(), time.monotonic() + timeout_s
        poll.register(self._reader, select.POLLIN)
        while True:
            left_s = deadline - time.monotonic()
            if not poll.poll(None if left_s == float("inf") else max(0.0, 1000 * left_s)):
                return None
            number = os.read(self._reader, 1)[0]
            if number in wanted:
                return number


def _attend_at_once(pipe: _SignalPipe, words: str) -> None:
    number = pipe.read((*SIGNALS, _DONE))
    if number in SIGNALS:
        _quit(words, number)


def _attend(
    pipe: _SignalPipe,
    stop: Callable[[], None],
    last_words: Callable[[], None],
    last_resort: Callable[[], str],
    patience_s: Callable[[], float],
    within_s: float,
) -> None:
    """Return if the work ends by itself; otherwise end the process."""
    number = pipe.read((*SIGNALS, _DONE, _STOPPED))
    if number not in SIGNALS:
        return
    end = time.monotonic() + within_s

    def ask() -> None:
        with contextlib.suppress(Exception):  # the terminal may be gone
            stop()

    stopping = _thread(ask)
    heard = pipe.read((*SIGNALS, _DONE, _STOPPED), patience_s())
    if heard == _DONE:
        return

    def say() -> None:
        said = _SPEECHLESS
        with contextlib.suppress(Exception):  # the store may be gone, too
            stopping.join()
            last_words()
            sys.stdout.flush()
            said = _SAID
        pipe.write(said)

    if heard not in SIGNALS:
        _thread(say)
        heard = pipe.read((*SIGNALS, _SAID, _SPEECHLESS), max(LEAST_WORDS_S, end - time.monotonic()))
    _quit("" if heard == _SAID or heard in SIGNALS else last_resort(), number)


def _thread(work: Callable[[], None]) -> threading.Thread:
    """Start a thread that keeps nothing from ending."""
    thread = threading.Thread(target=work, name="ctrl-c", daemon=True)
    thread.start()
    return thread


def _quit(words: str, number: int) -> None:
    show_cursor = "\x1b[?25h" if sys.stderr.isatty() else ""
    last = f"{words}\n" if words else ""
    if show_cursor or last:
        with contextlib.suppress(OSError):  # the terminal may be gone
            os.write(2, (show_cursor + last).encode())
    os._exit(128 + number)


@functools.cache
def _forget_in_forks() -> None:
    """Keep forked children, which signals reach as well, from writing to their parent's pipe."""
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
