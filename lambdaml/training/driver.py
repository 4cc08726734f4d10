"""The driver starts a run, resumes one, or repeats one, and waits for its end."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any, ParamSpec, Protocol, TypeVar

from lambdaml.engines import ENGINES, Elsewhere, Engine, Enough, LaunchSpec, functions_for
from lambdaml.engines.accounts import Accounts
from lambdaml.engines.caps import Cap, Judge, WrittenCap, capped
from lambdaml.engines.entry import FUNCTION, pick_device
from lambdaml.errors import JobError, RunFailed, SettingsError
from lambdaml.events import Emit, Event, RunEvent, WarningEvent, tell_outages
from lambdaml.job import Job
from lambdaml.log import keys
from lambdaml.log.numerics import Mode, Numerics
from lambdaml.log.reader import RunReader, read_settings
from lambdaml.log.reads import sha256_of
from lambdaml.log.summary import Staleness
from lambdaml.options import LaunchOptions, RunOptions, keyword_options
from lambdaml.parts import Parts
from lambdaml.settings import JobSettings, Settings
from lambdaml.storage import MeterReading, Store, open_store
from lambdaml.storage.patience import Patience, Patient
from lambdaml.training.asked import free_place, resolve_job, settings_for, stands_in_a_file
from lambdaml.training.beginning import begin, exists
from lambdaml.training.evaluation import Evaluated, Evaluations, best
from lambdaml.training.eventlog import logged, logger
from lambdaml.training.history_room import warnings_of_room
from lambdaml.training.init_from import find_version
from lambdaml.training.loading import load_run_job
from lambdaml.training.members import warnings_of
from lambdaml.training.numerics import current_class, differences, of_new_process, prepare, prepare_for
from lambdaml.training.rejections import summarise
from lambdaml.training.replay import keep_newest
from lambdaml.training.rerun import rerun_settings
from lambdaml.training.source import loading

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TrainResult:
    """Says how a run went. `requests` and `bytes` count everything that the run asked for, including functions that
    were killed, this process, and earlier calls; see `Run.usage`.

    Attributes:
        run: The URL of the run.
        stop: The reason why it ended: `steps`, `target`, `patience`, `cancelled`, `diverged`, `replanned`.
        version: The version of the result, in optimizer steps.
        metrics: The metrics of the result, by name.
        seconds: The wall time of this call.
        samples: The number of samples that went into applied updates.
        updates: The number of updates that have a fate.
        requests: The number of requests, by kind.
        bytes: The number of bytes that were `sent` and `received`.
        staleness: The distribution of the applied updates' staleness.
        fates: The number of updates by fate.
        rejections: A sentence about the rejected updates; "" if none was rejected.
        model_sha256: The SHA-256 of model.safetensors; None if the run has no result.
        best: The best snapshot that was evaluated, by the metric of `lambdaml.training.gains`; None if there is none. The
            result of a run that reached its target is the first snapshot that met it; the run goes on for a little while after
            that, so that a later snapshot may be better.
    """

    run: str
    stop: str
    version: int
    metrics: dict[str, float]
    seconds: float
    samples: int
    updates: int
    requests: dict[str, int]
    bytes: dict[str, int]
    staleness: Staleness
    fates: dict[str, int]
    rejections: str
    model_sha256: str | None
    best: Evaluated | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, for JSON."""
        return asdict(self)


class _Train(Protocol[P]):
    def __call__(
        self, job: str | type[Job] | Job, store: str | Store | None = None, *args: P.args, **options: P.kwargs
    ) -> TrainResult: ...


class _Resume(Protocol[P]):
    def __call__(
        self, store: str | Store, job: Job | None = None, *args: P.args, **options: P.kwargs
    ) -> TrainResult: ...


class _Rerun(Protocol[P]):
    def __call__(
        self,
        run: str | Store | RunReader,
        store: str | Store | None = None,
        without: Sequence[int] = (),
        since: int = 0,
        job: Job | None = None,
        *args: P.args,
        **options: P.kwargs,
    ) -> TrainResult: ...


def _as_train(make: Callable[P, Any]) -> Callable[[Callable[..., TrainResult]], _Train[P]]:
    return lambda function: keyword_options(function, make)


def _as_resume(make: Callable[P, Any]) -> Callable[[Callable[..., TrainResult]], _Resume[P]]:
    return lambda function: keyword_options(function, make)


def _as_rerun(make: Callable[P, Any]) -> Callable[[Callable[..., TrainResult]], _Rerun[P]]:
    return lambda function: keyword_options(function, make)


@_as_train(RunOptions)
def train(job: str | type[Job] | Job, store: str | Store | None = None, *, options: RunOptions) -> TrainResult:
    """Train a job with stateless workers that share nothing but a store.

    Args:
        job: `path/file.py:Name`, `package.module:Name`, a `Job` class, or an instance (engines `inline` and `ray`
            only).
        store: The run's own prefix, such as `s3://bucket/digits-1`; by default the next free `runs/<job>-<n>`.
        options: The options, given as keyword arguments such as `workers=8, schedule="asp", epochs=5`;
            `lambdaml.options.RunOptions` and `lambdaml.options.LaunchOptions` describe each.

    Raises:
        UserError: If the request makes no sense; nothing was started then.
        JobFailed: If the job's own code raised.
        RunFailed: If the run stopped before it finished; `resume` continues it.
        RunCapped: If `cap` stopped the run.
    """
    _demand_sense(options)
    prepare(options.numerics)
    on_event = logged(options.on_event)
    with ExitStack() as held:
        opened = _opened(store or held.enter_context(free_place(_name(job))), on_event)
        accounts, device = Accounts(opened), pick_device(options.device)
        chosen = _engine(options, opened, not stands_in_a_file(job))
        held.callback(_close, chosen, opened, store)
        job_settings, instance = _there(chosen, resolve_job, job, dict(options.args or {}), chosen.takes_objects)
        _warn(on_event, warnings_of(instance))
        if opened.head(keys.RUN) is not None:
            raise exists(opened)
        settings = _there(
            chosen,
            settings_for,
            instance,
            job_settings,
            options,
            init_from=find_version(options.init_from) if options.init_from is not None else None,
            numerics=_numerics(options.numerics, chosen, opened, job_settings),
            free_bytes=opened.free_bytes(),
        )
        _warn(on_event, warnings_of_room(settings, opened.free_bytes()))
        return _begin_and_supervise(
            opened, settings, instance, chosen, accounts, replace(options, device=device), on_event
        )


def _there(engine: Engine, function: Callable[..., T], *args: Any, **options: Any) -> T:
    """Call a function that uses the job's code, in the thread where all of that code runs. Ctrl-C does not wait for
    it."""
    found = engine.compute.submit(function, *args, **options)
    try:
        return found.result()
    except KeyboardInterrupt:
        engine.compute.abandon()
        raise


def _close(engine: Engine, opened: Store, given: str | Store | None) -> None:
    """Close what was opened here. A server that was started for a store (moto://) keeps running, so that one can look
    at the run."""
    engine.close()
    if not isinstance(given, Store) and not (opened.ephemeral and opened.shared):
        opened.close()


def _warn(on_event: Emit, texts: Iterable[str]) -> None:
    for text in texts:
        on_event(WarningEvent(text=text))


def _opened(store: str | Store, on_event: Emit) -> Patient:
    """Open the store, with no patience yet: if it cannot be reached before the run begins, its URL may be misspelt."""
    return Patient(store if isinstance(store, Store) else open_store(store), Patience(0.0, tell=tell_outages(on_event)))


def _name(job: str | type[Job] | Job) -> str:
    return job if isinstance(job, str) else (job if isinstance(job, type) else type(job)).__name__


def _demand_sense(options: RunOptions) -> None:
    """Raise a UserError for options that make no sense, before anything is started."""
    if FUNCTION in os.environ or loading():
        raise JobError(
            "the job's file is a script that trains when it is imported: put the call under if __name__ == '__main__':"
        )
    Parts.of(options)
    if options.functions is not None and options.functions < 1:
        raise SettingsError(f"functions: must be 1 or more (it is {options.functions})")


@_as_resume(LaunchOptions)
def resume(store: str | Store, job: Job | None = None, *, options: LaunchOptions) -> TrainResult:
    """Continue a run where its log ends. Its run.json says what the run is.

    Args:
        store: The run's prefix.
        job: The run's job, if it was given as an object, which is in no file.
        options: The options, given as keyword arguments; `lambdaml.options.LaunchOptions` describes each.

    Raises:
        RunNotFound, JobError, NewerSchema: If the run cannot be resumed.
        OtherNumerics: If its functions would compute other bits here; `train` with `init_from` continues it as a new
            run.
        RunFailed: If the run was cancelled or has diverged.
        RunCapped: If `cap` stopped the run; it counts earlier calls, too.
    """
    on_event = logged(options.on_event)
    opened = _opened(store, on_event)
    accounts = Accounts(opened)
    settings = read_settings(opened)
    prepare_for(settings.numerics)
    chosen = _engine(options, opened, is_object=job is not None)
    try:
        device = pick_device(options.device)
        instance = job or _there(chosen, load_run_job, settings)
        if isinstance(chosen, Elsewhere):
            chosen.survey(opened, settings.job, settings.numerics)
        accounts.begin(RunReader(opened).usage())
        given = replace(options, device=device)
        return _begin_and_supervise(opened, settings, instance, chosen, accounts, given, on_event, new=False)
    finally:
        _close(chosen, opened, store)


@_as_rerun(LaunchOptions)
def rerun(
    run: str | Store | RunReader,
    store: str | Store | None = None,
    without: Sequence[int] = (),
    since: int = 0,
    job: Job | None = None,
    *,
    options: LaunchOptions,
) -> TrainResult:
    """Repeat a run whose steps do not depend on clocks, in a new place. It has the same parameters, bit for bit, or those that
    it has without some clients; see `lambdaml.log.left_out`.

    Args:
        run: The run that is repeated, or its prefix.
        store: The new run's own prefix; by default the next free `runs/<job>-<n>`.
        without: The numbers of the clients whose slots stay empty.
        since: The version from which on they do.
        job: The run's job, if it was given as an object, which is in no file.
        options: The options, given as keyword arguments; `lambdaml.options.LaunchOptions` describes each.

    Raises:
        RunNotFound, JobError, NewerSchema, SettingsError: If the run cannot be repeated, or not without these clients.
        OtherNumerics: If its functions would compute other bits here.
        RunFailed: If the new run stopped before it finished; `resume` continues it.
    """
    on_event = logged(options.on_event)
    settings = rerun_settings(run if isinstance(run, RunReader) else RunReader(run), without, since)
    prepare_for(settings.numerics)
    with ExitStack() as held:
        opened = _opened(store or held.enter_context(free_place(settings.job.spec)), on_event)
        accounts, chosen = Accounts(opened), _engine(options, opened, is_object=job is not None)
        held.callback(_close, chosen, opened, store)
        device, instance = pick_device(options.device), job or _there(chosen, load_run_job, settings)
        if isinstance(chosen, Elsewhere):
            chosen.survey(opened, settings.job, settings.numerics)
        return _begin_and_supervise(
            opened, settings, instance, chosen, accounts, replace(options, device=device), on_event
        )


def _begin_and_supervise(
    store: Patient,
    settings: Settings,
    job: Job,
    engine: Engine,
    accounts: Accounts,
    options: LaunchOptions,
    on_event: Emit,
    new: bool = True,
) -> TrainResult:
    count = functions_for(settings.workers, options.functions, isinstance(engine, Elsewhere))
    begin(store, settings, job, engine, new=new, functions=count, on_event=on_event)
    launch = LaunchSpec(store, settings, job, count, options.device, options.lifetime_s, _written(options.cap))
    return _supervise(launch, store, engine, accounts, options.cap, on_event)


def _engine(options: LaunchOptions, store: Store, is_object: bool) -> Engine:
    """Return the engine that was asked for, or one that fits. It is already starting, since that takes seconds."""
    name = options.engine
    if name is None:
        name = "local" if store.shared and not is_object else "inline"
    engine = ENGINES.make(name, options.engine_options)
    if name != "inline" and not store.shared:
        others = "file:// or moto://" if engine.nearby else "s3://"
        raise SettingsError(f"{store.url} lives in this process, other processes cannot open it: use {others}")
    if is_object and not engine.takes_objects:
        raise SettingsError(
            "a job given as an instance, or as a class that stands in no file, cannot be sent to other processes: use "
            "engine='inline'"
        )
    engine.start()
    return engine


def _written(cap: Cap | None) -> dict[str, Any] | None:
    return cap.to_dict() if isinstance(cap, WrittenCap) else None


def _numerics(mode: Mode, engine: Engine, store: Store, job: JobSettings) -> Numerics:
    """Return the numerics class that the engine's functions compute in."""
    if isinstance(engine, Elsewhere):
        return replace(engine.survey(store, job, None), mode=mode)
    found = current_class()
    if found.mode != mode and not engine.in_process:
        found = of_new_process()
    if found.mode != mode == "reproducible":
        warnings.warn(
            "torch has computed before this run could make it reproducible: the run is recorded as 'fast', and no bits "
            "are promised. Train first thing in a process, or with engine='local'",
            stacklevel=3,
        )
    return replace(found, mode=mode) if mode == "fast" else found


def _supervise(
    launch: LaunchSpec, store: Patient, engine: Engine, accounts: Accounts, cap: Cap | None, on_event: Emit
) -> TrainResult:
    """Run functions and evaluate their snapshots until the run ends or may spend no more."""
    settings = launch.settings
    store.wait_for(settings.patience_s)
    run = RunReader(store)
    on_event(RunEvent(run=store.url, settings=settings, functions=launch.functions))
    watch = Evaluations(engine.compute, launch, on_event)
    snapshots = [keys.number(info.key) for info in store.list(keys.SNAPSHOTS)] if cap is not None else []
    judge = Judge(cap, launch, accounts, snapshots[-1], engine.in_process) if cap is not None else None

    leaving = False
    enough: Enough | None = None

    def emit(event: Event) -> None:
        nonlocal leaving
        accounts.take(event)
        if event.event == "snapshot":
            watch.go()
        try:
            on_event(event)
            if not leaving:  # once is enough: the functions are leaving
                watch.heed()
                if judge is not None:
                    judge.take(event)
        except KeyboardInterrupt:
            leaving = True
            raise

    try:
        try:
            for count in (launch.functions, 1):  # try again if the result's writer, perhaps not ours, was lost
                if store.head(keys.MODEL) is None:
                    if judge is not None and judge.ask() is not None:
                        raise capped(judge.reason, snapshots[-1], accounts)
                    engine.run(replace(launch, functions=count), emit)
        except Enough as stop:
            enough = stop
        if enough is not None and store.head(keys.MODEL) is None:
            watch.join()
            # A replay in another class than the functions' may round differently.
            alike = launch.device == "cpu" and not differences(settings.numerics)
            version = keep_newest(run, launch.job) if alike else run.version()
            raise capped(str(enough), version, accounts)
        watch.go()
        watch.join()
        found = result(run, accounts.seconds, accounts.close)
        logger.info("the run has ended: %s, version %d", found.stop, found.version)
        return found
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            watch.abandon()
        store.patience.give_up()
        accounts.abandon()
        raise


def result(run: RunReader, seconds: float, requests: Callable[[], MeterReading]) -> TrainResult:
    """Gather the result of a run that has ended. `requests` is called after the last request to the store.

    Raises:
        RunFailed: If the run ended without a result; the message says why.
    """
    summary = run.summary()
    if summary.stop is None:
        raise _endless(run)
    model_sha256 = sha256_of(run.store, keys.MODEL)
    rejected = [entry for commit in run.log() for entry in commit.refused if entry.fate == "rejected"]
    rejections = summarise(rejected, run.settings) if rejected else ""
    if summary.stop == "diverged":
        raise RunFailed(
            f"the run diverged: of {summary.updates} updates {rejections}. The last good state is version "
            f"{run.newest_snapshot()}; look at these samples, or try a smaller learning rate or clip_norm"
        )
    if summary.stop == "steps" and not summary.fates["applied"]:
        raise RunFailed(
            f"nothing was learned: of {summary.updates} updates none was applied; {rejections or 'all late'}"
        )
    metrics = run.metrics()
    spent = requests()
    version = summary.version if summary.stop_version is None else summary.stop_version
    return TrainResult(
        run=run.url,
        stop=summary.stop,
        version=version,
        metrics=metrics.get(version, {}),
        seconds=round(seconds, 3),
        samples=summary.samples,
        updates=summary.updates,
        requests=dict(sorted(spent.requests.items())),
        bytes={"sent": spent.bytes_sent, "received": spent.bytes_received},
        staleness=summary.staleness,
        fates=summary.fates,
        rejections=rejections,
        model_sha256=model_sha256,
        best=best(metrics, run.settings.target),
    )


def _endless(run: RunReader) -> RunFailed:
    """Return the error that says why a run whose functions have ended has a log without an end."""
    if run.store.head(keys.RUN) is None:
        return RunFailed(f"{keys.RUN} is not there any more: was {run.url} deleted while the run went on?")
    return RunFailed("functions ended without having finished the run; resume it to go on")
