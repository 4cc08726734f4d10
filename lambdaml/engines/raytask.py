"""This code runs in a Ray cluster for `lambdaml.engines.ray`: the body of a function's task, and the mailbox where
functions and engine meet."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import ray
from ray import exceptions

from lambdaml.engines.entry import FUNCTION, run_function
from lambdaml.engines.supervise import DONE, FAILED, LEFT, error_event, used
from lambdaml.errors import RunNotFound, SettingsError
from lambdaml.events import Event, StartedEvent
from lambdaml.storage import Meter

SEND_S = 0.5
"""A function sends its messages to the mailbox this often, in seconds."""

LISTEN_S = 30.0
"""A function waits this many seconds for a word from the engine before it asks again, so that the mailbox does not
remember forever the functions that died while they waited."""

LISTENERS = 10_000
"""The mailbox handles this many questions at once, including those that wait."""

ASK_S = 30.0
"""An answer from the mailbox may take this many seconds."""

_PAUSES_S = (0.1, 0.4, 1.6, 6.4)
"""These are the pauses before a question is repeated to a mailbox that cannot be reached."""


class Mailbox:
    """Passes messages between the functions of a run and their engine, as an actor of Ray. Both may repeat a message
    whose answer was lost, so events are numbered."""

    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []
        self._taken = 0
        self._posted: Counter[str] = Counter()
        self._news = asyncio.Event()
        self._words: dict[str, dict[str, Any]] = {}
        self._leaving = False
        self._told = 0
        self._word = asyncio.Event()

    async def post(self, name: str, first: int, events: list[dict[str, Any]]) -> None:
        """Take a function's events, from its event number `first` on."""
        fresh = events[self._posted[name] - first :]
        self._posted[name] += len(fresh)
        self._events += fresh
        if fresh:
            self._news.set()

    async def listen(self, name: str, heard: int, timeout_s: float) -> dict[str, Any]:
        """Return the engine's word to a function, as soon as it may differ from word number `heard`."""
        if self._told == heard:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._word.wait(), timeout_s)
        word = self._words.get(name, {"leave": False, "vacant": {}})
        return word | {"leave": word["leave"] or self._leaving, "number": self._told}

    async def take(self, seen: int, timeout_s: float) -> list[dict[str, Any]]:
        """Return the events of functions after the first `seen` ones, as soon as any exist."""
        del self._events[: seen - self._taken]
        self._taken = seen
        if not self._events:
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), timeout_s)
        return self._events

    async def tell(self, words: dict[str, dict[str, Any]], leaving: bool) -> None:
        """Take the engine's words to functions: one for each, and one for all."""
        self._words, self._leaving = words, leaving
        self._told += 1
        self._word.set()  # wakes those that wait now
        self._word = asyncio.Event()


class _Line:
    """Connects a function with the mailbox, in a thread: a call that waits in a task's main thread gives up its CPU.

    It sends the function's events now and then, and hears the engine's words at once.
    """

    def __init__(self, desk: Any, name: str) -> None:
        self.meter = Meter()
        self.leaving = False
        self.vacant: dict[int, str] = {}
        self._desk = desk
        self._name = name
        self._began = time.monotonic()
        node = ray.get_runtime_context().get_node_id()
        self._events: list[dict[str, Any]] = [StartedEvent(function=name, pid=os.getpid(), node=node).to_dict()]
        self._posted = self._heard = 0
        self._closed = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._talk, name="line", daemon=True)
        self._thread.start()

    def emit(self, event: Event) -> None:
        self._events.append(event.to_dict())

    def close(self) -> None:
        """Send the events that are left, and end the thread."""
        self._closed = True
        self._wake.set()
        self._thread.join()

    def _talk(self) -> None:
        try:
            word = self._listen()
            while not self._closed:
                self._send()
                self._wake.wait(SEND_S)
                self._wake.clear()
                if word.done():
                    self._heed(word)
                    word = self._listen()
            self._send()
        except exceptions.RayError:  # the mailbox is gone
            self.leaving = True

    def _listen(self) -> Future[dict[str, Any]]:
        word: Future[dict[str, Any]] = self._desk.listen.remote(self._name, self._heard, LISTEN_S).future()
        word.add_done_callback(lambda _: self._wake.set())
        return word

    def _heed(self, answer: Future[dict[str, Any]]) -> None:
        with contextlib.suppress(exceptions.ActorUnavailableError):
            word = answer.result()
            self.leaving, self.vacant, self._heard = word["leave"], word["vacant"], word["number"]

    def _send(self) -> None:
        memory_bytes = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self.emit(used(self._name, self._began, memory_bytes, self.meter.snapshot()))
        events = list(self._events)
        ask(lambda: self._desk.post.remote(self._name, self._posted, events))
        self._posted += len(events)
        del self._events[: len(events)]


def run_task(name: str, url: str, desk: Any, job: Any, **options: Any) -> int:
    """Run the body of the task, and return the code of its end."""
    os.environ[FUNCTION] = name
    line = _Line(desk, name)
    try:
        outcome = run_function(
            url,
            name,
            emit=lambda event: line.emit(replace(event, function=name)),
            leaving=lambda: line.leaving,
            vacant=lambda: line.vacant,
            meter=line.meter,
            job=job,
            **options,
        )
    except RunNotFound as error:
        shared = SettingsError(
            f"{url} is not shared: the Ray node {socket.gethostname()} does not see the run. Use a bucket (s3://, gs://, az://), a "
            "ray:// store, or a folder that all nodes mount"
        )
        line.emit(error_event(name, shared if url.startswith("file:") else error))
        return FAILED
    except Exception as error:
        line.emit(error_event(name, error))
        return FAILED
    finally:
        line.close()
        os.environ.pop(FUNCTION)  # Ray reuses the process
    return DONE if outcome == "done" else LEFT


def ask(question: Callable[[], Any], hopeless: Callable[[], bool] = lambda: False) -> Any:
    """Return the mailbox's answer, and repeat the question a few times if Ray cannot reach it and it is not
    hopeless."""
    for pause_s in _PAUSES_S:
        try:
            return ray.get(question(), timeout=ASK_S)
        except (exceptions.ActorUnavailableError, exceptions.GetTimeoutError):
            if hopeless():
                raise
            time.sleep(pause_s)
    return ray.get(question(), timeout=ASK_S)
