"""The engine `inline` runs functions as coroutines of this process, for `memory://`, notebooks and tests. It starts no
process.

All functions share one compute thread, because they share torch's random stream. So more functions are no faster, but
each has its own replica, leases and view of the bucket, and the results are the same bits. All of the job's code runs
in that thread.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from lambdaml.engines import LaunchSpec
from lambdaml.engines.entry import SWITCH_S, function_coroutine
from lambdaml.engines.supervise import DONE, FAILED, LEFT, used
from lambdaml.events import Emit, EndedEvent, Event, UsageEvent
from lambdaml.storage import Meter, open_store
from lambdaml.training.one_thread import OneThread

_TELL_S = 0.1
"""What each function has used is reported this often, in seconds."""


class InlineEngine:
    """Runs functions in the caller's process."""

    takes_objects = True
    in_process = True
    nearby = True

    def __init__(self) -> None:
        self._compute = OneThread(shared=False)

    @property
    def compute(self) -> OneThread:
        return self._compute

    def start(self) -> None:
        """Do nothing, since this engine needs no preparation."""

    def run(self, launch: LaunchSpec, emit: Emit) -> None:
        interval = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_S)
        ends: list[BaseException] = []  # the reasons why functions must leave
        try:
            if _loop_runs():
                self._run_aside(launch, emit, ends)
            else:
                asyncio.run(self._run(launch, emit, ends))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            sys.setswitchinterval(interval)

    def _run_aside(self, launch: LaunchSpec, emit: Emit, ends: list[BaseException]) -> None:
        """Run in a thread of its own, for a caller whose event loop waits meanwhile, as a notebook's does."""
        with ThreadPoolExecutor(1, thread_name_prefix="inline") as aside:
            ended = aside.submit(asyncio.run, self._run(launch, emit, ends))
            try:
                ended.result()
            except KeyboardInterrupt as stop:
                ends.append(stop)
                ended.result()
                raise

    async def _run(self, launch: LaunchSpec, emit: Emit, ends: list[BaseException]) -> None:
        token = secrets.token_hex(3)
        accounts: dict[str, Callable[[], UsageEvent]] = {}

        def tell(event: Event) -> None:
            try:
                for account in list(accounts.values()) if event.event == "commit" else ():
                    emit(account())
                emit(event)
            except KeyboardInterrupt as stop:
                ends.append(stop)

        async def keep_alive(index: int) -> None:
            life, outcome = 0, "left"
            while outcome != "done" and not ends:
                try:
                    outcome = await self._live(launch, f"inline.{token}.{index}.{life}", index, tell, ends, accounts)
                except Exception as error:  # let the others leave in good order and release their leases
                    ends.append(error)
                life += 1

        async with asyncio.TaskGroup() as group:
            for index in range(launch.functions):
                group.create_task(keep_alive(index))
        if ends:
            raise ends[0]

    async def _live(
        self,
        launch: LaunchSpec,
        name: str,
        index: int,
        tell: Emit,
        ends: list[BaseException],
        accounts: dict[str, Callable[[], UsageEvent]],
    ) -> str:
        """Run one function from its start to its end. `accounts` gets a callable that returns what it has used."""
        meter, began, code = Meter(), time.monotonic(), FAILED

        def account() -> UsageEvent:
            return used(name, began, 0, meter.snapshot())

        accounts[name] = account

        async def keep_account() -> None:
            while True:
                await asyncio.sleep(_TELL_S)
                tell(account())

        accountant = asyncio.create_task(keep_account())
        store = open_store(launch.store.url, meter)
        try:
            outcome = await function_coroutine(
                store,
                launch.settings,
                launch.job,
                name,
                launch.assigned(index),
                self._compute,
                device=launch.device,
                emit=lambda event: tell(replace(event, function=name)),
                lifetime_s=launch.lifetime_s,
                leaving=lambda: bool(ends),
            )
            code = DONE if outcome == "done" else LEFT
            return outcome
        finally:
            accountant.cancel()
            store.close()
            tell(accounts.pop(name)())
            tell(EndedEvent(function=name, code=code))

    def close(self) -> None:
        self._compute.shutdown(wait=True)


def _loop_runs() -> bool:
    """Return whether the caller is inside an event loop, which cannot run another one."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
