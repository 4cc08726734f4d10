"""A run begins with run.json and the snapshot of a model that has learned nothing yet."""

from __future__ import annotations

import gc

from lambdaml.engines import Engine
from lambdaml.engines.resources import free_memory_bytes
from lambdaml.errors import RunExists, SettingsError
from lambdaml.events import Emit, WarningEvent
from lambdaml.job import Job
from lambdaml.log import keys
from lambdaml.log.extra import PIN
from lambdaml.log.reads import read_now
from lambdaml.log.retention import pin_version
from lambdaml.log.slices import largest_block
from lambdaml.log.snapshot import State
from lambdaml.settings import Settings, reached
from lambdaml.storage import Store
from lambdaml.storage.probe import check
from lambdaml.storage.url import StoreURL
from lambdaml.training.evaluation import evaluate, no_metrics, with_residuals
from lambdaml.training.footprint import Footprint, footprint, outer_share, warning
from lambdaml.training.history_room import extra_bytes
from lambdaml.training.init_from import begin_from

MANY_PARAMETERS = 10**7
"""A model with more parameters is freed as soon as it is no longer needed, by a garbage collection: modules and
optimizers refer to each other in circles."""


_ADVICE = {
    "an update": "use pattern scatter, or a codec that leaves fewer bytes",
    "an extra object": "take fewer samples, or codec=bf16",
}
"""What to do about an object that is too large, if that is not the store's fault alone."""


def begin(
    store: Store,
    settings: Settings,
    job: Job,
    engine: Engine,
    *,
    new: bool,
    functions: int = 1,
    on_event: Emit = lambda event: None,
) -> None:
    """Write run.json and the first snapshot. If several callers begin a run at one prefix, the one whose run.json is
    kept goes on; the others write nothing.

    Args:
        new: Whether nobody has begun this run before. A run that was begun may lack its snapshot.
        functions: The number of functions that will work on the run. A warning is emitted if they do not fit into this
            machine's memory.
        on_event: A callable that takes the warning.

    Raises:
        RunExists: If another run, or what is left of one, is at this prefix.
        SettingsError: If an object of the run would be larger than the store can take.
        JobFailed, JobError: If the job's model or optimizer cannot be built, or differs from the one that `init_from`
            names.
    """
    if new:
        check(store)
    begun = next(iter(store.list(keys.SNAPSHOTS)), None) is not None
    if begun and new:
        raise exists(store)
    if not begun:
        state, needed = first_state(settings, job, engine, functions)
        demand_small_objects(needed, store.url)
        text = warning(needed, functions, engine.in_process, free_memory_bytes()) if engine.nearby else ""
        if text:
            on_event(WarningEvent(text=text))
        if new:
            _claim(store, settings)
        if settings.extra is not None:  # first, so that nothing is deleted of a run that has begun
            pin_version(store, PIN, 0)
        _write_first(store, state)
        del state
        if settings.parameters > MANY_PARAMETERS:
            gc.collect()


def _write_first(store: Store, state: State) -> None:
    if state.frozen:
        store.create(keys.FROZEN, state.base().dump())
    store.create(keys.snapshot(0), state.dump())


def first_state(settings: Settings, job: Job, engine: Engine, functions: int = 1) -> tuple[State, Footprint]:
    """Return the state that the run begins with, and the memory that the run needs. The model is built only here."""
    from lambdaml.training.examine import rehearse
    from lambdaml.training.replica import Replica

    share = engine.compute.submit(rehearse, job, settings.seed).result()
    replica = engine.compute.submit(Replica, job, settings).result()
    if settings.init_from is not None:
        engine.compute.submit(begin_from, replica, settings.init_from).result()
    state = engine.compute.submit(replica.shared_state).result()
    if settings.target is not None or settings.patience_evaluations is not None:
        metrics = engine.compute.submit(evaluate, job, state).result()
        metrics = with_residuals(metrics, state.meta) if replica.algorithm.duals else metrics
        if settings.target is not None:
            reached(settings.target, metrics)
        elif not metrics:
            raise SettingsError(no_metrics(job))
    trained_bytes = replica.flat.host.nbytes
    return state, footprint(
        replica.parts,
        trained_bytes,
        round(share * trained_bytes),
        replica.update_bytes,
        outer_share=engine.compute.submit(outer_share, replica.algorithm).result(),
        frozen_bytes=sum(tensor.nbytes for tensor in state.frozen.values()),
        workers=settings.workers,
        hosted=-(-settings.workers // functions),
        block_bytes=largest_block(replica.slices.slicing) if replica.slices and replica.slices.slicing.apart else None,
        extra_bytes=extra_bytes(settings, replica.flat.layout),
    )


def demand_small_objects(needed: Footprint, url: str) -> None:
    """Make sure that a store can take the objects of a run.

    Raises:
        SettingsError: If an update or a snapshot is larger than any object there.
    """
    place = StoreURL.parse(url)
    most = place.largest_object_bytes
    sizes = {
        "an update": needed.object_bytes,
        "a snapshot": needed.snapshot_bytes,
        "an extra object": needed.extra_bytes,
    }
    for what, size in sizes.items():
        if most is not None and size > most:
            advice = _ADVICE.get(what, "use another store")
            raise SettingsError(
                f"{what} of this model has {size / 1e9:.1f} GB, and an object of {place.scheme}:// at most {most / 1e9:.1f}: "
                f"{advice}"
            )


def _claim(store: Store, settings: Settings) -> None:
    """Write run.json.

    Raises:
        RunExists: If another process has written its own.
    """
    standing = store.create(keys.RUN, settings.dump())
    if standing is not None:  # it may be ours, damaged on its way
        found = read_now(store, keys.RUN, Settings.read, standing)
        if found is None or found.token != settings.token:
            raise exists(store)


def exists(store: Store) -> RunExists:
    """Return the error that says why no run can begin at a prefix that holds a run, or what is left of one."""
    if store.head(keys.RUN) is None:
        return RunExists(f"{store.url} holds what is left of a run without its {keys.RUN}: choose another place")
    return RunExists(f"there is a run at {store.url} already: 'lambdaml resume' goes on with it")
