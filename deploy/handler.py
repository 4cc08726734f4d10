"""The handler of the Lambda function: every invocation begins here, on AWS as on this machine.

`lambdaml.engines.invoke` lists what an event may ask for. A function that works keeps nothing that the bucket does not
hold, and needs nobody who watches it:

* When its time is up it publishes what it is computing, writes its workers' memory and releases its leases. Then it
  claims its next life (`lambdaml.log.launches`) and invokes it, unless the run has ended or is to leave.
* When it takes over a worker of a function that fell silent, it claims that function's next life, and invokes it.
* When it works as worker 0, it counts what the run has spent, and asks all to leave when a cap is reached.
* When nobody has evaluated a snapshot that it wrote for as long as a lease lasts, it invokes an evaluation.

Lambda may deliver an event twice, and repeats one whose invocation died. Each delivery works under a name of its own,
and does nothing but leave if others work as its workers. An error that would come again is written to the bucket, rather
than raised, so that Lambda does not try it again.
"""

from __future__ import annotations

import os
import platform
import resource
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, replace
from functools import cache
from typing import Any

import lambdaml.deploy.start  # before any library computes
from lambdaml import __version__
from lambdaml.engines.caps import Spent
from lambdaml.engines.entry import FUNCTION, run_function
from lambdaml.engines.invoke import Invoker, Work, invoke_again, keep
from lambdaml.engines.supervise import error_event, used
from lambdaml.engines.tally import Tally
from lambdaml.errors import LambdaMLError, SettingsError, StoreError, StoreUnavailable
from lambdaml.events import Event
from lambdaml.log import keys
from lambdaml.log.launches import SHOW_LEASES, Launch, name_of
from lambdaml.log.numerics import Numerics
from lambdaml.log.reader import read_settings
from lambdaml.log.usage import Usage, write_own
from lambdaml.settings import JobSettings
from lambdaml.storage import Meter, Store, open_store
from lambdaml.storage.endpoint import is_local
from lambdaml.storage.probe import check
from lambdaml.training import numerics
from lambdaml.training.eventlog import logger
from lambdaml.worker.leases import Before

MARGIN_S = 2.0
"""A function must have left this many seconds before its time is up: it still starts its successor then."""

HEED_S = 2.0
"""A function looks this often, in seconds, whether it is to leave. Each look is one request."""

_COUNT_S = 10.0
"""What the run has spent is counted this often, in seconds, if functions keep a cap, and at first after half the
time that has passed by then. It takes three lists and some gets."""

_GOING_S = HEED_S + 2.0
"""Functions that are asked to leave go on for at most this many seconds, and for the step that they are in."""

_begun = [lambdaml.deploy.start.LOADED]
"""When this process began, until its first invocation has counted the time since."""


def handler(event: Mapping[str, Any], context: Any) -> dict[str, Any]:
    """Do what the event asks for.

    Args:
        event: The event; see `lambdaml.engines.invoke`.
        context: Lambda's context of the invocation.

    Returns:
        What was done, in plain values. Only those who wait for the invocation see it.

    Raises:
        StoreUnavailable: If the store cannot be reached, so that Lambda tries again later.
        SettingsError: If the event asks for nothing that is known.
    """
    began = _begin()
    what = event.get("do")
    if what == "survey":
        return _survey(event, context, began)
    if what == "work":
        return _Working(Work.of_event(event), context, began).work()
    if what == "evaluate":
        return _evaluate(event, context, began)
    if what == "keep":
        return _keep(event, context)
    raise SettingsError(f"lambdaml {__version__} does not know what {what!r} asks for")


@cache
def _invoker_of(arn: str) -> Invoker:
    """Return what invokes this function, which takes a while to make and serves all invocations of this process."""
    return Invoker(arn)


def _begin() -> float:
    """Return the time from which the invocation is billed: if it is the first of its process, that of the process."""
    return _begun.pop() if _begun else time.monotonic()


def _survey(event: Mapping[str, Any], context: Any, began: float) -> dict[str, Any]:
    """Find out whether a function could work on a run: its version, its job, its store, its numerics."""
    from lambdaml.training.loading import load_recorded_job

    meter = Meter()
    try:
        _demand_version(event["version"])
        store = open_store(event["run"], meter)
        try:
            check(store)
        finally:
            store.close()
        load_recorded_job(JobSettings(**event["job"]))
        if event["numerics"] is not None:
            numerics.demand(Numerics(**event["numerics"]))
        found = numerics.current_class()
    except LambdaMLError as error:
        return {"error": {"type": type(error).__name__, "message": str(error)}}
    usage = used(f"survey-{secrets.token_hex(4)}", began, _peak_bytes(), meter.snapshot())
    return {"numerics": asdict(found), "memory": int(context.memory_limit_in_mb), "usage": usage.to_dict()}


def _demand_version(theirs: str) -> None:
    if theirs != __version__:
        raise SettingsError(
            f"the function has lambdaml {__version__}, and the launcher {theirs}: build its image again, with the same version"
        )


def _evaluate(event: Mapping[str, Any], context: Any, began: float) -> dict[str, Any]:
    """Evaluate all snapshots of a run that have no metrics yet."""
    from lambdaml.training.evaluation import Evaluator
    from lambdaml.training.loading import load_run_job

    meter = Meter()
    store = open_store(event["run"], meter)
    name = name_of(event["launch"], event["version"], 0).replace("launch-", "evaluate-")
    try:
        settings = read_settings(store)
        Evaluator(store, settings, load_run_job(settings)).catch_up()
        return {"evaluated": True}
    finally:
        _account(store, name, began, meter, context)
        store.close()


def _keep(event: Mapping[str, Any], context: Any) -> dict[str, Any]:
    """Start the functions of a run's newest launch again if all have fallen silent."""
    store = open_store(event["run"])
    try:
        found = Launch.newest(store)
        if found is None:
            return {"started": 0}
        lease_s, (launch, work) = read_settings(store).lease_s, found
        invoker = _invoker_of(context.invoked_function_arn)
        return {"started": keep(store, lease_s, launch, Work.of_event(work), invoker, context.aws_request_id)}
    finally:
        store.close()


class _Working:
    """One invocation that works as a function."""

    def __init__(self, work: Work, context: Any, began: float) -> None:
        self._work = work
        self._context = context
        self._began = began
        self._name = name_of(work.launch, work.first, work.life)
        self._meter = Meter()
        self._store: Store = open_store(work.run, self._meter)
        self._settings = read_settings(self._store)
        self._assigned = range(work.first, self._settings.workers, work.functions)
        self._launch = Launch(self._store, work.launch)
        self._invoker = _invoker_of(context.invoked_function_arn)
        self._errands = ThreadPoolExecutor(1, thread_name_prefix="errand")
        self._leaving = threading.Event()
        self._ended = threading.Event()
        self._heeder = threading.Thread(target=self._heed, name="heed", daemon=True)
        self._snapshots: dict[int, float] = {}  # those not seen to be evaluated, and when they were written
        self._known = Before()
        self._owed: dict[int, float] = {}  # functions to invoke again, and until when to try
        self._keeps_cap = work.cap is not None and 0 in self._assigned
        self._cap: tuple[Callable[[Spent], str | None], Tally] | None = None
        self._loaded = self._counted = time.monotonic()
        self._count_at, self._reading = 0.0, self._meter.snapshot()

    def work(self) -> dict[str, Any]:
        """Start the others of the range, and work until the run ends or the time is up."""
        os.environ[FUNCTION] = self._name
        self._heeder.start()
        outcome = "failed"
        try:
            if self._launch.over():
                outcome = "idle"
                return {"outcome": outcome}
            others = replace(self._work, first=self._work.first + 1, life=0)
            if others.first < others.last:
                self._errand(self._invoker.start, self._launch, others, self._name)
            outcome = self._function()
        except StoreUnavailable:
            raise
        except Exception as error:
            self._launch.fail(self._name, error_event(self._name, error).to_dict())
        finally:
            self._end(outcome)
        return {"outcome": outcome}

    def _function(self) -> str:
        _demand_version(self._work.version)
        if self._store.head(keys.MODEL) is not None:  # the run ended before this invocation had its turn
            return "done"
        left_s = self._context.get_remaining_time_in_millis() / 1000 - MARGIN_S
        return run_function(
            self._work.run,
            self._name,
            self._assigned,
            lifetime_s=min(left_s, self._work.lifetime_s or left_s),
            emit=self._take,
            leaving=self._leaving.is_set,
            meter=self._meter,
            standby=False,
            before=self._work.before,
        )

    def _end(self, outcome: str) -> None:
        self._ended.set()
        self._heeder.join()
        self._errands.shutdown(wait=True)
        if outcome == "left":
            self._try(self._succeed)
            self._try(self._replace)
        _account(self._store, self._name, self._began, self._meter, self._context)
        self._store.close()
        os.environ.pop(FUNCTION, None)

    def _succeed(self) -> None:
        """Invoke this function's next life.

        If it held a worker, that is the first one that nobody has claimed: another delivery of the same event may have
        claimed the life after this one, which then found that it was not needed.
        """
        work, life = self._work, self._work.life + 1
        if self._keeps_cap and self._cap is None:  # its life was shorter than the time to the first count
            self._try(self._count)
        if set(self._assigned) - self._known.silent.keys():
            life = self._launch.next_life(work.first)
        if not self._launch.over() and self._launch.claim(work.first, life, self._known.commits, self._name):
            self._invoker.send(replace(work.only(work.first, life), before=self._known).to_event())

    def _take(self, event: Event) -> None:
        """Take an event of the function, in its event loop, where nothing may take long."""
        if event.event == "takeover" and event.worker not in self._assigned:
            self._keeps_cap |= event.worker == 0 and self._work.cap is not None
            self._owed[event.worker % self._work.functions] = (
                time.monotonic() + 2 * SHOW_LEASES * self._settings.lease_s
            )
        elif event.event == "leaving":
            self._known = Before(event.commits, event.silent)
        elif event.event == "snapshot":
            self._snapshots[event.version] = time.monotonic()

    def _errand(self, work: Callable[..., Any], *args: Any) -> None:
        self._errands.submit(self._try, work, *args)

    def _try(self, work: Callable[..., Any], *args: Any) -> None:
        try:
            work(*args)
        except LambdaMLError as error:  # others look after it, or the launcher does
            logger.warning("%s", error)

    def _replace(self) -> None:
        """Invoke functions again whose workers were taken over here, since they had fallen silent.

        If their latest life is so young that it may yet show itself, they are tried again a little later.
        """
        for index, end in list(self._owed.items()):
            given = self._settings.lease_s, self._launch, self._work, self._invoker, self._name
            if invoke_again(index, *given) or time.monotonic() > end:
                self._owed.pop(index)

    def _count(self) -> None:
        """Ask all functions to leave if the run may reach its cap before it is counted again."""
        if self._cap is None:
            from lambdaml.cost.billing.caps import Caps

            assert self._work.cap is not None
            self._cap = Caps.from_dict(self._work.cap), Tally(self._store, self._launch)
        (caps, tally), now, reading = self._cap, time.monotonic(), self._meter.snapshot()
        lately, lately_s = reading - self._reading, now - self._counted
        self._counted, self._reading = now, reading
        until_s = min((now - self._loaded) / 2, _COUNT_S)
        self._count_at = now + until_s
        if reason := caps(tally.if_stopped(time.time(), until_s + _GOING_S, lately, lately_s)):
            self._launch.leave(reason)

    def _judge(self) -> None:
        """Invoke an evaluation if a snapshot has had none for as long as a lease lasts."""
        due = time.monotonic() - self._settings.lease_s
        for version in [version for version, written in self._snapshots.items() if written < due]:
            del self._snapshots[version]
            if self._store.head(keys.metrics(version)) is None and self._launch.evaluate(version, self._name):
                event = {"do": "evaluate", "run": self._work.run, "launch": self._work.launch, "version": version}
                return self._invoker.send(event)

    def _heed(self) -> None:
        """Look now and then whether the launch is to leave, and after what must be invoked."""
        while not self._ended.wait(HEED_S):
            self._try(self._replace)
            self._try(self._judge)
            if self._keeps_cap and time.monotonic() > self._count_at:
                self._try(self._count)
            with suppress(StoreError):
                if self._launch.over():
                    self._leaving.set()
                    return


def _account(store: Store, name: str, began: float, meter: Meter, context: Any) -> None:
    """Write what an invocation used, as the last thing that it does."""
    seconds = round(time.monotonic() - began, 3)
    with suppress(StoreError):
        write_own(store, Usage(name, seconds, _peak_bytes(), meter.snapshot(), True, _platform(context)))


def _platform(context: Any) -> str:
    """Return the platform that bills the invocation; "" on a Lambda that nobody bills."""
    if is_local(os.environ.get("AWS_ENDPOINT_URL_LAMBDA")):
        return ""
    kind = "arm" if platform.machine() in ("aarch64", "arm64") else "x86"
    return f"lambda-{kind}:{context.memory_limit_in_mb}"


def _peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
