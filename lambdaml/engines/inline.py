"""Functions as coroutines of this process: for `memory://`, notebooks and tests. No process is started.

All functions share one compute thread, because they share torch's random stream; so they gain no speed from one
another, but each has its own replica, leases and view of the bucket, and the results are the same bits.
"""

from __future__ import annotations

import asyncio
import secrets
import sys

from lambdaml.engines import Emit, Launch
from lambdaml.entry import SWITCH_S, function_coroutine
from lambdaml.storage import open_store
from lambdaml.worlds.live import OneThread


class InlineEngine:
    """Runs functions in the caller's process."""

    takes_objects = True

    def __init__(self) -> None:
        self._compute = OneThread()

    @property
    def compute(self) -> OneThread:
        return self._compute

    def start(self) -> None:
        """There is nothing to start."""

    def run(self, launch: Launch, emit: Emit) -> None:
        interval = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_S)
        try:
            asyncio.run(self._run(launch, emit))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            sys.setswitchinterval(interval)

    async def _run(self, launch: Launch, emit: Emit) -> None:
        token = secrets.token_hex(3)

        async def keep_alive(index: int) -> None:
            life = 0
            outcome = "left"
            while outcome != "done":
                outcome = await function_coroutine(
                    open_store(launch.store.url),
                    launch.settings,
                    launch.job,
                    f"inline.{token}.{index}.{life}",
                    launch.assigned(index),
                    self._compute,
                    device=launch.device,
                    emit=emit,
                    lifetime_s=launch.lifetime_s,
                )
                life += 1

        async with asyncio.TaskGroup() as group:
            for index in range(launch.functions):
                group.create_task(keep_alive(index))

    def close(self) -> None:
        self._compute.shutdown(wait=True)
