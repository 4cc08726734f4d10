"""Ctrl-C in small programs: what ends in good order, what is given up, and that nothing holds it up."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer
from typing import IO

import pytest

FOR_EVER_S = 3600.0

BEGIN = f"""
import os, signal, sys, time
from lambdaml.cli._interrupt import at_once, from_now_on, interruptible, raising
def say(word):
    print(word, flush=True)
def wait():
    while True:
        time.sleep({FOR_EVER_S})
def patient():
    return {FOR_EVER_S}
def press():
    os.kill(os.getpid(), signal.SIGINT)
"""


@contextmanager
def program(code: str) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """A running program and its output."""
    process = subprocess.Popen(
        [sys.executable, "-c", BEGIN + code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    watchdog = Timer(30, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        yield process, process.stdout
    finally:
        watchdog.cancel()
        process.kill()
        process.communicate()


def ended(code: str) -> tuple[int, list[str]]:
    """The exit status of a program that ends by itself, and its lines."""
    with program(code) as (process, output):
        lines = output.read().splitlines()
        return process.wait(), lines


def test_the_first_ctrl_c_stops_the_work_and_says_how_it_ended() -> None:
    code = """
import threading
stopped = threading.Event()
try:
    with interruptible(stopped.set, lambda: say("last words"), patience_s=patient):
        try:
            press()
            stopped.wait()
            raise KeyboardInterrupt
        finally:
            say("unwound")
finally:
    say("never")
"""
    assert ended(code) == (130, ["unwound", "last words"])


def test_work_that_does_not_heed_ctrl_c_is_given_up() -> None:
    code = """
with interruptible(lambda: say("stop"), lambda: say("last words"), patience_s=lambda: 0.1):
    press()
    try:
        wait()
    finally:
        say("never")
"""
    assert ended(code) == (130, ["stop", "last words"])


def test_last_words_that_take_too_long_are_replaced() -> None:
    code = """
with interruptible(lambda: None, wait, lambda: "last resort", patience_s=lambda: 0.0, within_s=0.1):
    press()
    wait()
"""
    assert ended(code) == (130, ["last resort"])


@pytest.mark.parametrize(
    ("stop", "last_words", "said"), [("fail", "words", "last words"), ("words", "fail", "last resort")]
)
def test_what_fails_after_ctrl_c_shows_no_traceback(stop: str, last_words: str, said: str) -> None:
    code = f"""
def fail():
    raise OSError("the terminal is gone")
def words():
    say("last words")
with interruptible({stop}, {last_words}, lambda: "last resort", patience_s=lambda: 0.0, within_s={FOR_EVER_S}):
    press()
    wait()
"""
    status, lines = ended(code)
    assert (status, lines[-1]) == (130, said)
    assert not any("Traceback" in line for line in lines)


def test_the_second_ctrl_c_quits_at_once() -> None:
    code = """
with interruptible(lambda: say("stop"), lambda: say("never"), patience_s=patient):
    say("ready")
    wait()
"""
    with program(code) as (process, output):
        assert output.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert output.readline() == "stop\n"
        process.send_signal(signal.SIGINT)
        assert output.read() == ""
        assert process.wait() == 130


def test_the_second_ctrl_c_does_not_wait_for_last_words() -> None:
    code = f"""
def last_words():
    say("words")
    wait()
with interruptible(lambda: None, last_words, patience_s=lambda: 0.0, within_s={FOR_EVER_S}):
    say("ready")
    wait()
"""
    with program(code) as (process, output):
        assert output.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert output.readline() == "words\n"
        process.send_signal(signal.SIGINT)
        assert output.read() == ""
        assert process.wait() == 130


def test_work_that_ends_by_itself_after_ctrl_c_has_ended() -> None:
    code = """
import threading
stopped = threading.Event()
with interruptible(stopped.set, lambda: say("never"), patience_s=patient):
    press()
    stopped.wait()
say("done")
"""
    assert ended(code) == (0, ["done"])


def test_ctrl_c_is_noticed_while_the_main_thread_never_returns_to_python() -> None:
    code = """
class Deaf:
    def __del__(self):  # an exception raised here would be swallowed
        press()
        wait()
with at_once("gone"):
    Deaf()
"""
    assert ended(code) == (130, ["gone"])


def test_what_was_begun_at_once_goes_on_around_and_after_the_others() -> None:
    code = """
from_now_on("gone")
with interruptible(lambda: say("stop"), lambda: say("last words")):
    pass
with raising():
    try:
        press()
        wait()
    except KeyboardInterrupt:
        say("raised")
press()
wait()
"""
    assert ended(code) == (130, ["raised", "gone"])


def test_ctrl_c_that_strikes_a_forked_child_is_not_the_parents_second() -> None:
    code = """
with interruptible(lambda: say("stop"), lambda: say("never"), patience_s=patient):
    child = os.fork()
    if child == 0:
        press()
        os._exit(7)
    _, status = os.waitpid(child, 0)
    say(os.waitstatus_to_exitcode(status))
"""
    assert ended(code) == (0, ["7"])


def test_a_command_that_was_told_to_ignore_ctrl_c_ignores_it() -> None:
    code = """
signal.signal(signal.SIGINT, signal.SIG_IGN)
from_now_on("gone")
with interruptible(lambda: say("stop"), lambda: say("last words")):
    press()
say("done")
"""
    assert ended(code) == (0, ["done"])


ENDS = [(signal.SIGTERM, 143), (signal.SIGHUP, 129)]


@pytest.mark.parametrize(("number", "status"), ENDS)
def test_sigterm_and_sighup_end_work_in_good_order_with_a_status_of_their_own(number: int, status: int) -> None:
    code = f"""
import threading
stopped = threading.Event()
with interruptible(stopped.set, lambda: say("last words"), patience_s=patient):
    os.kill(os.getpid(), {number})
    stopped.wait()
    say("unwound")
    raise KeyboardInterrupt
"""
    assert ended(code) == (status, ["unwound", "last words"])


@pytest.mark.parametrize(("number", "status"), ENDS)
def test_a_second_signal_of_any_kind_quits_at_once(number: int, status: int) -> None:
    code = f"""
with interruptible(press, lambda: say("never"), patience_s=patient):
    os.kill(os.getpid(), {number})
    wait()
"""
    assert ended(code) == (status, [])


def test_under_nohup_the_end_of_the_terminal_is_ignored() -> None:
    code = """
signal.signal(signal.SIGHUP, signal.SIG_IGN)
from_now_on("gone")
with interruptible(lambda: say("stop"), lambda: say("last words")):
    os.kill(os.getpid(), signal.SIGHUP)
say("done")
"""
    assert ended(code) == (0, ["done"])


def test_where_ctrl_c_is_an_exception_sigterm_ends_the_process() -> None:
    code = """
from_now_on("gone")
with raising():
    os.kill(os.getpid(), signal.SIGTERM)
    wait()
"""
    assert ended(code) == (-signal.SIGTERM, [])
