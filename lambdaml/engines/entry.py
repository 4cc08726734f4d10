"""The body of a function, the same for every engine: open the bucket, read run.json, work, come back."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any

from lambdaml.engines.live import LiveWorld
from lambdaml.errors import SettingsError
from lambdaml.events import Emit, tell_outages
from lambdaml.job import Job
from lambdaml.log.reader import read_settings
from lambdaml.settings import PATIENCE_S, Settings
from lambdaml.storage import Meter, Store, open_store
from lambdaml.storage.patience import Patience, Patient
from lambdaml.training import numerics
from lambdaml.training.loading import load_run_job
from lambdaml.training.one_thread import OneThread
from lambdaml.training.sampling import derive_seed
from lambdaml.worker.function import Function, Outcome

FUNCTION = "LAMBDAML_FUNCTION"
"""Environment variable that holds a function's name in its own process."""

SWITCH_S = 0.0001
"""How long one thread may keep others from Python. Requests and tensor work share it, and neither should wait long."""


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
) -> Outcome:
    """Work on the run at `url` in this process; see `Function.run` for what it returns and raises.

    Args:
        url: of the run; opened here, so the caller may have forked.
        name: of this function, unique.
        assigned: the workers to work as.
        dead: functions that are known to be dead.
        device: `cpu`, `cuda`, or `auto` for the best there is.
        lifetime_s: seconds from now after which the engine will end this function.
        emit: takes progress events.
        leaving: becomes true when this function is wanted to leave.
        meter: counts its requests; give one whose ledger others can read.
        vacant: workers to stand in for; see `World.vacant`.
        job: the run's, where the engine brought it along; else it is imported.
    """
    sys.setswitchinterval(SWITCH_S)
    store = open_store(url, meter)
    compute = OneThread()
    try:
        settings = read_settings(Patient(store, Patience(PATIENCE_S, tell=tell_outages(emit), hurried=leaving)))
        work = function_coroutine(
            store,
            settings,
            job or load_run_job(settings),
            name,
            assigned,
            compute,
            dead=dead,
            device=device,
            lifetime_s=lifetime_s,
            emit=emit,
            leaving=leaving,
            vacant=vacant,
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
    dead: Collection[str] = (),
    device: str = "cpu",
    **world_options: Any,
) -> Outcome:
    """The same for a caller that has an event loop, a job and a compute thread already.

    Raises:
        OtherNumerics: this process would compute other bits than the run's functions; and what `Function.run` raises.
    """
    from lambdaml.training.replica import Replica

    seed = derive_seed(settings.seed, name)
    world = LiveWorld(store, compute, seed=seed, patience_s=settings.patience_s, **world_options)
    try:
        await world.compute(lambda: numerics.demand(settings.numerics))
        replica = await world.compute(lambda: Replica(job, settings, world.now, pick_device(device)))
        return await Function(world, settings, replica, name, assigned, dead).run()
    finally:
        world.close()


def pick_device(device: str) -> str:
    """`auto` resolved to `cuda` where torch sees a GPU, else `cpu`; any other device checked.

    Raises:
        SettingsError: torch knows no such device, or it is not there.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise SettingsError(f"device {device!r}: {str(error).splitlines()[0]}") from None
    return device
