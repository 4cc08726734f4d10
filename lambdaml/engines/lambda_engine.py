"""The engine `lambda` runs functions as invocations of one function of AWS Lambda, or of a Lambda on this machine.

The engine starts the first functions and then only reads the run's bucket. Functions start their own successors when
their time is up, and others in the place of those that fell silent, so that a run goes on if this process dies
(`lambdaml.deploy.handler`). While it lives, this process evaluates, heeds caps, and starts functions again if all have
died. Before a run begins, one invocation that it waits for (a *survey*) finds out whether functions could work on it.

A function's requests are counted in its trace, which is at most `lambdaml.worker.tracing.FLUSH_S` old, and completely in
the usage that it writes at its end.
"""

from __future__ import annotations

import secrets
import subprocess
import sys
import time
from dataclasses import asdict
from tempfile import TemporaryFile
from typing import Any

from lambdaml import __version__, errors
from lambdaml.engines import Enough, LaunchSpec
from lambdaml.engines.bulletin import FUNCTIONS_S, Bulletin
from lambdaml.engines.invoke import Invoker, Work, keep
from lambdaml.engines.supervise import revive
from lambdaml.errors import AccessDenied, RunFailed, SettingsError
from lambdaml.events import Emit, EndedEvent, ErrorEvent, UsageEvent, event_of
from lambdaml.log import keys
from lambdaml.log.launches import Launch
from lambdaml.log.numerics import Numerics
from lambdaml.settings import JobSettings
from lambdaml.storage import Store
from lambdaml.storage.endpoint import is_local
from lambdaml.storage.url import StoreURL
from lambdaml.training.one_thread import OneThread

_HERE = "local"
"""This endpoint stands for a Lambda that is started on this machine, and ends with the engine."""

_LOOK_S = 0.5
"""The engine looks for news this often, in seconds."""

_END_S = 20.0
"""When the run has ended, its functions have this many seconds to say so."""

_SHOW_S = 10.0
"""A function that began just before it was asked to leave shows itself within this many seconds. Whoever resumes the run
must not find it at work. One that begins later finds that it is to leave."""

_REACHABLE = ("s3", "gs", "az")
"""The schemes of stores that functions in the cloud can reach."""


class LambdaEngine:
    """Runs each function as a chain of invocations.

    Args:
        function: The name of the Lambda function, or its ARN.
        memory: The memory in MB that it must have; 0 if any will do, which is 1,769 for a Lambda on this machine.
        region: The region; by default that of the environment or of the AWS profile.
        endpoint_url: The address of a server that speaks Lambda's API, or `local` to start one on this machine.
    """

    takes_objects = False
    in_process = False
    nearby = False

    def __init__(self, function: str = "lambdaml", memory: int = 0, region: str = "", endpoint_url: str = "") -> None:
        if memory and not 128 <= memory <= 10_240:
            raise ValueError(f"memory must be 128 to 10,240 MB, not {memory}")
        self._function, self._memory, self._region, self._endpoint_url = function, memory, region, endpoint_url
        self._compute = OneThread()
        self._server: subprocess.Popen[str] | None = None
        self._invoker: Invoker
        self._near = False
        self._surveys: list[dict[str, Any]] = []  # what they used, until the run takes account of it

    @property
    def compute(self) -> OneThread:
        return self._compute

    def start(self) -> None:
        """Connect to Lambda, or start one on this machine.

        Raises:
            AccessDenied: If there are no AWS credentials.
            UserError: If no Lambda can be started on this machine.
        """
        if self._endpoint_url == _HERE:
            self._server, self._endpoint_url = start_here(self._function, self._memory)
        self._invoker = Invoker(self._function, self._region, self._endpoint_url)
        self._near = self._invoker.near

    def survey(self, store: Store, job: JobSettings, run: Numerics | None) -> Numerics:
        """Ask one invocation whether functions could work on a run.

        Raises:
            SettingsError, AccessDenied, OtherNumerics, JobError: If they could not.
        """
        self._demand_reachable(store.url)
        question = {
            "do": "survey",
            "version": __version__,
            "run": store.url,
            "job": job.model_dump(),
            "numerics": asdict(run) if run is not None else None,
        }
        try:
            answer = self._invoker.ask(question)
        except RunFailed as error:
            raise SettingsError(f"{error}; nothing was begun") from None
        if "error" in answer:
            told = revive(ErrorEvent(**answer["error"]))
            if isinstance(told, AccessDenied):
                raise AccessDenied(f"the Lambda function {self._function!r} cannot use the store: {told}")
            raise told if told.exit_code == 2 else SettingsError(f"a function could not work there: {told}")
        if self._memory and answer["memory"] != self._memory:
            raise SettingsError(
                f"the Lambda function {self._function!r} has {answer['memory']} MB of memory, not {self._memory}: "
                f"'lambdaml deploy aws --memory {self._memory}' changes it"
            )
        self._surveys.append(answer["usage"])
        return Numerics(**answer["numerics"])

    def _demand_reachable(self, url: str) -> None:
        """Make sure that functions can reach the store.

        Raises:
            SettingsError: If they cannot.
        """
        place = StoreURL.parse(url)
        if not self._near and (place.scheme not in _REACHABLE or is_local(place.params.get("endpoint"))):
            raise SettingsError(
                f"functions on Lambda cannot reach {url}, which is on this machine: use s3://BUCKET/RUN"
            )

    def run(self, launch: LaunchSpec, emit: Emit) -> None:
        while self._surveys:
            if isinstance(told := event_of(self._surveys.pop()), UsageEvent):
                emit(told)
                emit(EndedEvent(function=told.function, code=0))
        _Following(self._invoker, launch, emit).run()

    def close(self) -> None:
        if self._server is not None:
            assert self._server.stdin is not None and self._server.stdout is not None
            self._server.stdin.close()
            self._server.wait()
            self._server.stdout.close()
            self._server = None
        self._compute.shutdown(wait=True)


class _Following:
    """One call of `run`: starts the functions of a launch, and follows them by way of the bucket."""

    def __init__(self, invoker: Invoker, launch: LaunchSpec, emit: Emit) -> None:
        token = secrets.token_hex(4)
        self._invoker = invoker
        self._spec = launch
        self._emit = emit
        self._launch = Launch(launch.store, token)
        self._bulletin = Bulletin(launch.store, launch.settings, token)
        lifetime_s = launch.lifetime_s if launch.lifetime_s < float("inf") else None
        self._work = Work(
            token, launch.store.url, launch.functions, 0, launch.functions, 0, lifetime_s, __version__, cap=launch.cap
        )
        self._checked = self._asked = time.monotonic()
        self._leaving_until = 0.0

    def run(self) -> None:
        try:
            self._launch.begin(self._work.to_event())
            self._invoker.start(self._launch, self._work)
            self._follow()
        except BaseException as error:
            self._launch.leave(str(error) if isinstance(error, Enough) else "")
            self._leaving_until = time.monotonic() + _SHOW_S
            patience_s = self._spec.settings.lease_s + _END_S
            try:
                self._wait(patience_s)
            except Enough:  # functions found it first, and this process finds it while it waits for them
                self._wait(patience_s)
            raise

    def _follow(self) -> None:
        """Emit the launch's events until the run has ended.

        Raises:
            LambdaMLError: If a function gave up for good, or all died again and again.
            Enough: If the functions have found that the cap is reached.
        """
        while not self._bulletin.over:
            self._tell()
            self._demand_no_failure()
            self._keep()
            time.sleep(_LOOK_S)
        store, end = self._spec.store, time.monotonic() + self._spec.settings.lease_s
        while store.head(keys.MODEL) is None and self._bulletin.alive and time.monotonic() < end:
            self._demand_no_failure()
            self._tell()
            time.sleep(_LOOK_S)
        self._wait(_END_S)

    def _wait(self, seconds: float) -> None:
        """Wait until all functions have ended, and emit their last events."""
        end = time.monotonic() + seconds
        while True:
            self._tell(look=self._leaving_until > 0)
            if not (self._bulletin.alive or self._may_show()) or time.monotonic() > end:
                break
            time.sleep(_LOOK_S)
        for event in self._bulletin.lost():
            self._emit(event)

    def _may_show(self) -> bool:
        """Return whether functions may be at work that were asked to leave and have not shown themselves yet."""
        return time.monotonic() < self._leaving_until and bool(self._bulletin.awaited(self._launch.latest()))

    def _tell(self, look: bool = False) -> None:
        for event in self._bulletin.news(look):
            self._emit(event)

    def _demand_no_failure(self) -> None:
        """Raise the first error for which a function gave up, or the cap that functions found to be reached."""
        if time.monotonic() - self._asked < FUNCTIONS_S:
            return
        self._asked = time.monotonic()
        for record in self._launch.failures():
            if isinstance(event := event_of(record), ErrorEvent):
                raise revive(event)
        if self._spec.cap is not None and (reason := self._launch.reason()):
            raise Enough(reason)

    def _keep(self) -> None:
        """Start functions again if all have fallen silent.

        Raises:
            RunFailed: If they died too often without progress.
        """
        now, spec = time.monotonic(), self._spec
        silent_s = now - max(self._bulletin.moved, self._checked)
        if silent_s < spec.settings.lease_s:
            return
        self._checked = now
        started = keep(spec.store, spec.settings.lease_s, self._launch, self._work, self._invoker)
        if not started and all(self._launch.hopeless(index) for index in range(spec.functions)):
            raise RunFailed(
                "functions died again and again without progress: look at their logs for what ends them (memory, or a time "
                "limit that is shorter than one step)"
            )


def start_here(function: str, memory: int) -> tuple[subprocess.Popen[str], str]:
    """Start a Lambda on this machine, which ends when its standard input does.

    Returns:
        Its process, and its address.

    Raises:
        UserError: If it does not start.
    """
    command = [sys.executable, "-P", "-m", "lambdaml.deploy.local_lambda", "--function", function]
    command += ["--memory-mb", str(memory)] if memory else []
    with TemporaryFile("w+") as said:
        server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True, start_new_session=True
        )
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        if not url:
            server.wait()
            said.seek(0)
            lines = said.read().strip().splitlines()
            raise errors.UserError(lines[-1] if lines else "no Lambda could be started on this machine")
    return server, url
