"""Ctrl-C at any moment: the first one ends a command in good order, unless that takes longer than a second or two; the
second one ends it at once. So do SIGTERM, by which others end a process, and SIGHUP, which comes when a terminal closes.

They raise nothing in the main thread, which may be anywhere: half through an import, in a `finally` block, in a
library that swallows exceptions, in C code that returns in a minute. Instead the interpreter writes the signal's number
to a pipe, and a thread that reads the pipe decides what happens. It runs whatever may block in yet another thread, so
nothing can hold up the end.
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
"""What ends a command in good order."""

INTERRUPTED = 130
"""Exit status of a command that Ctrl-C ended: 128 and the signal's number, as a shell has it."""

PATIENCE_S = 1.5
"""Seconds that work which was asked to stop may take until it is given up."""

WITHIN_S = 1.8
"""Seconds from Ctrl-C to the end of the process, last words included."""

LEAST_WORDS_S = 0.1
"""Seconds that last words may take even if no time is left."""

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
    """Within it, the first signal ends the work in good order, and the second one at once; either ends this process.

    The functions of a process that ended so leave by themselves. All callables are called in other threads.

    Args:
        stop: has the work raise KeyboardInterrupt soon.
        last_words: say how it ended, once it has raised that or `patience_s()` has passed.
        last_resort: what is said in place of last words that fail, or are not over in time.
        patience_s: seconds that the work may take to stop.
        within_s: seconds from the signal to the end of the process.
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
            watch.join()  # for ever where a signal was what stopped the work: the process ends meanwhile


@contextmanager
def at_once(words: str) -> Iterator[None]:
    """Within it, a signal says `words` and ends this process."""
    with _SignalPipe() as pipe:
        watch = _thread(lambda: _attend_at_once(pipe, words))
        try:
            yield
        finally:
            pipe.write(_DONE)
            watch.join()


def from_now_on(words: str) -> None:
    """Have a signal say `words` and end this process, until its last moment, but for what is done within the others."""
    pipe = _SignalPipe().__enter__()
    _thread(lambda: _attend_at_once(pipe, words))


@contextmanager
def raising() -> Iterator[None]:
    """Within it, SIGINT raises KeyboardInterrupt in the main thread and the others end the process, as Python has it by
    default."""
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
    """Within it, a signal does nothing but write its number here; threads write theirs."""

    def __enter__(self) -> Self:
        _forget_in_forks()
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        # In this order, so that a signal in between reaches the pipe that was there before.
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
        """The next of the wanted numbers; None if none came in time. All others are dropped."""
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
    """Returns if the work has ended by itself; else the process ends here."""
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
        with contextlib.suppress(Exception):  # and the store may be, too
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
    """One that holds nobody up."""
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
    """Signals strike forked children, too: they must not write to their parent's pipe."""
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
