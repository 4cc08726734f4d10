"""The body of a function is the same for every engine: it opens the bucket, reads run.json, works, and returns."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from lambdaml.engines.live import LiveWorld
from lambdaml.errors import SettingsError, StoreError
from lambdaml.events import Emit, tell_outages
from lambdaml.job import Job
from lambdaml.log import keys
from lambdaml.log.reader import read_settings
from lambdaml.log.trace_parts import pack_rows
from lambdaml.seeds import derive_seed
from lambdaml.settings import PATIENCE_S, Settings
from lambdaml.storage import Meter, Store, open_store
from lambdaml.storage.patience import Patience, Patient
from lambdaml.training import numerics
from lambdaml.training.loading import load_run_job
from lambdaml.training.one_thread import OneThread
from lambdaml.training.output import Output, captured
from lambdaml.worker.function import Function, Outcome
from lambdaml.worker.leases import Before
from lambdaml.worker.tracing import error_row

FUNCTION = "LAMBDAML_FUNCTION"
"""In a function's own process, this environment variable holds its name."""

SWITCH_S = 0.0001
"""A thread may keep the Python interpreter for this long while others wait. Requests and tensor work share it, and
neither should wait long."""


def run_function(
    url: str,
    name: str,
    assigned: Collection[int],
    *,
    dead: Collection[str] = (),
    device: str = "cpu",
    lifetime_s: float = float("inf"),
    emit: Emit = lambda event: None,
    leaving: Callable[[], bool] = lambda: False,
    meter: Meter | None = None,
    vacant: Callable[[], Mapping[int, str]] = dict,
    job: Job | None = None,
    standby: bool = True,
    before: Before | None = None,
) -> Outcome:
    """Work on the run at `url` in this process; `Function.run` documents what it returns and raises.

    Args:
        url: The URL of the run. It is opened here, so the caller may have forked.
        name: The name of this function, which is unique.
        assigned: The workers that this function should work as.
        dead: The names of functions that are known to be dead.
        device: The device to compute on: `cpu`, `cuda`, or `auto` for the best one available.
        lifetime_s: The time from now until the engine ends this function, in seconds.
        emit: A callable that takes progress events.
        leaving: A callable that returns true once this function should leave.
        meter: The meter that counts its requests; give one whose ledger others can read.
        vacant: A callable that returns the workers to work for as a backup; see `World.vacant`.
        job: The run's job, if the engine has brought it along; otherwise it is imported.
        standby, before: Whether it stays as a backup, and what it knows of others; see `Function`.
    """
    sys.setswitchinterval(SWITCH_S)
    store = open_store(url, meter)
    compute = OneThread()
    try:
        settings = read_settings(Patient(store, Patience(PATIENCE_S, tell=tell_outages(emit), hurried=leaving)))
        with captured() as output:
            if job is None:
                with _reporting(store, name, output), output.listening():
                    job = load_run_job(settings)
            work = function_coroutine(
                store,
                settings,
                job,
                name,
                assigned,
                compute,
                output=output,
                dead=dead,
                device=device,
                lifetime_s=lifetime_s,
                emit=emit,
                leaving=leaving,
                vacant=vacant,
                standby=standby,
                before=before,
            )
            return asyncio.run(work)
    finally:
        compute.shutdown(wait=True)
        store.close()


async def function_coroutine(
    store: Store,
    settings: Settings,
    job: Job,
    name: str,
    assigned: Collection[int],
    compute: OneThread,
    *,
    output: Output | None = None,
    dead: Collection[str] = (),
    device: str = "cpu",
    standby: bool = True,
    before: Before | None = None,
    **world_options: Any,
) -> Outcome:
    """Do the same as `run_function` for a caller that already has an event loop, a job and a compute thread.

    Args:
        output: The output that collects what the job prints, if the caller has captured something already.

    Raises:
        OtherNumerics: If this process would compute other bits than the run's functions. `Function.run` documents the
            other errors.
    """
    from lambdaml.training.replica import Replica

    with captured(output) as said:
        seed = derive_seed(settings.seed, name)
        world = LiveWorld(store, compute, said, seed=seed, patience_s=settings.patience_s, **world_options)
        try:
            with _reporting(store, name, said):
                await world.compute(lambda: numerics.demand(settings.numerics))
                replica = await world.compute(lambda: Replica(job, settings, world.now, pick_device(device)))
            return await Function(world, settings, replica, name, assigned, dead, standby, before or Before()).run()
        finally:
            world.close()


@contextmanager
def _reporting(store: Store, name: str, output: Output) -> Iterator[None]:
    """Write an error that comes before the function has a trace as the first and last part of that trace."""
    try:
        yield
    except Exception as error:
        rows = [*output.take(), error_row(error, output.now())]
        with suppress(StoreError):
            store.put(keys.trace_part(name, 0), pack_rows(rows))
        raise


def pick_device(device: str) -> str:
    """Resolve `auto` to `cuda` if torch sees a GPU, else to `cpu`, and check any other device.

    Raises:
        SettingsError: If torch knows no such device, or this machine does not have it.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise SettingsError(f"device {device!r}: {str(error).splitlines()[0]}") from None
    return device
