"""The engine `threads`: functions are threads of this process, each with an event loop of its own."""

from __future__ import annotations

import asyncio
import queue
import secrets
import threading
import time
from collections.abc import Iterator, Sequence

from lambdaml.engines import Emit, LaunchSpec
from lambdaml.engines.entry import function_coroutine
from lambdaml.engines.supervise import DONE, FAILED, LEFT, error_event, supervise, used
from lambdaml.events import EndedEvent, Event
from lambdaml.storage import open_store
from lambdaml.training.one_thread import OneThread


class ThreadEngine:
    """What `lambdaml.train` asks of an engine."""

    takes_objects = True
    in_process = True
    nearby = True

    def __init__(self) -> None:
        self.compute = OneThread()

    def start(self) -> None:
        pass

    def run(self, launch: LaunchSpec, emit: Emit) -> None:
        supervise(Threads(launch, self.compute), launch.functions, emit)

    def close(self) -> None:
        self.compute.shutdown()


class Threads:
    """What `supervise` asks of those that start and end functions."""

    def __init__(self, launch: LaunchSpec, compute: OneThread) -> None:
        self.launch, self.compute = launch, compute
        self.heard: queue.Queue[Event] = queue.Queue()
        self.leaving = False

    def start(self, index: int, dead: Sequence[str]) -> str:
        name = f"threads-{secrets.token_hex(6)}"
        threading.Thread(target=self.work, args=(name, self.launch.assigned(index), list(dead))).start()
        return name

    def leave(self) -> None:
        self.leaving = True

    def events(self) -> Iterator[Event]:
        while True:
            yield self.heard.get()

    def work(self, name: str, assigned: list[int], dead: list[str]) -> None:
        launch, store, began = self.launch, open_store(self.launch.store.url), time.monotonic()
        run = (store, launch.settings, launch.job, name, assigned, self.compute)
        world = {"emit": self.heard.put, "leaving": lambda: self.leaving, "lifetime_s": launch.lifetime_s}
        try:
            work = function_coroutine(*run, dead=dead, device=launch.device, **world)
            code = DONE if asyncio.run(work) == "done" else LEFT
        except Exception as error:
            self.heard.put(error_event(name, error))
            code = FAILED
        self.heard.put(used(name, began, 0, store.meter.snapshot()))
        self.heard.put(EndedEvent(function=name, code=code))
