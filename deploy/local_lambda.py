"""A Lambda that runs on this machine: AWS's Invoke API for boto3, over sandboxes that run the real handler.

    with LocalLambda() as local:
        boto3.client("lambda", endpoint_url=local.url, ...).invoke(FunctionName="lambdaml", InvocationType="Event", ...)

`python -m lambdaml.deploy.local_lambda` prints the URL as its first line and ends with its standard input.

As on AWS: synchronous and asynchronous invocations, dry runs, GetFunction, GetFunctionConfiguration and
GetAccountSettings with AWS's errors; 6 MB for a synchronous payload and 1 MB for an event; a concurrency limit, over
which a synchronous call is answered 429 and an event waits; two retries of an event whose function failed; sandboxes
that start cold, are frozen between invocations, used again while they are warm and ended when they are idle; the time
and memory limits. On demand, and drawn from a seed: events that are delivered twice, sandboxes that fail, calls that
are throttled.

Other than on AWS: one function; its code is found from the working folder and may write there; no share of a CPU by
memory size; no limit on /tmp, no layers, extensions, destinations, versions or log tails; no signatures or permissions
are checked. `lambdaml.deploy.sandbox` says what the emulator does otherwise.

`GET /reports` lists what each invocation took, and `GET /stats` counts what happened.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Self, TextIO

from lambdaml.deploy.invoke_api import InvokeServer, bare_name
from lambdaml.deploy.sandbox import InvocationReport, Sandbox, emulator
from lambdaml.errors import UserError
from lambdaml.storage.draws import Draws

IDLE_S = 120.0
"""A sandbox that has been idle for this many seconds is ended."""

_WATCH_S = 0.2
_RETRIES = 2
_EVENT_LIVES_S = 6 * 3600.0
_FAILS_WITHIN_S = 3.0

_FROM_OUTSIDE = (
    *("PATH", "LANG", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION"),
    *("AWS_DEFAULT_REGION", "AWS_CA_BUNDLE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"),
)
_BY_DEFAULT = {
    "LANG": "C.UTF-8",
    "AWS_ACCESS_KEY_ID": "local",
    "AWS_SECRET_ACCESS_KEY": "local",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@dataclass(frozen=True, slots=True)
class _Event:
    payload: bytes
    context: str
    born: float
    attempt: int = 0


class LocalLambda:
    """A function of AWS Lambda's on this machine, as a context manager.

    Args:
        handler: The handler as `module.function`, found from the working folder.
        function: The function's name or ARN.
        memory_mb: The function's memory in MB, over which it is killed.
        timeout_s: The most seconds that an invocation may take.
        concurrency: The most invocations that run at a time.
        seed: The seed of all that is drawn.
        duplicates: The share of events that are delivered twice.
        failures: The share of invocations whose sandbox does not start or is killed in its first three seconds.
        throttles: The share of Invoke calls that are answered 429.
        retry_after_s: The seconds from a failed event to its first retry; the second retry waits twice as long.
        environment: Variables for the function, beside its limits, and the credentials and region of this process.
        port: The port to listen on at 127.0.0.1; 0 takes a free one.
        log: A file for what sandboxes print.

    Attributes:
        shares: The shares of `duplicates`, `failures` and `throttles`, which may be changed while it serves.

    Raises:
        UserError: If an argument is out of its range, the port is taken, or the emulator is not installed.
    """

    def __init__(
        self,
        handler: str = "lambdaml.deploy.handler.handler",
        function: str = "lambdaml",
        memory_mb: int = 1769,
        timeout_s: int = 900,
        concurrency: int = 64,
        seed: int = 0,
        duplicates: float = 0.0,
        failures: float = 0.0,
        throttles: float = 0.0,
        retry_after_s: float = 60.0,
        environment: Mapping[str, str] | None = None,
        port: int = 0,
        log: TextIO | None = None,
    ) -> None:
        ranges: dict[str, tuple[float, int, int]] = {
            "memory_mb": (memory_mb, 128, 10240),
            "timeout_s": (timeout_s, 1, 900),
            "concurrency": (concurrency, 1, 1000),
            "duplicates": (duplicates, 0, 1),
            "failures": (failures, 0, 1),
            "throttles": (throttles, 0, 1),
            "retry_after_s": (retry_after_s, 0, 3600),
            "port": (port, 0, 65535),
        }
        for name, (value, low, high) in ranges.items():
            if not low <= value <= high:
                raise UserError(f"{name} must lie between {low} and {high}, not {value}")
        self.handler, self.function, self.memory_mb, self.timeout_s = handler, bare_name(function), memory_mb, timeout_s
        self.concurrency, self._draws, self._log = concurrency, Draws(seed), log
        self.shares = {"duplicates": duplicates, "failures": failures, "throttles": throttles}
        self._retry_after_s, self._program = retry_after_s, emulator()
        self._lock = threading.Lock()
        self._count: Counter[str] = Counter(invocations=0, cold=0, retries=0, duplicates=0, throttles=0, failures=0)
        self._reports: list[InvocationReport] = []
        self._active = 0
        self._idle: list[Sandbox] = []
        self._running: set[Sandbox] = set()
        self._closed = threading.Event()
        try:
            self._server = InvokeServer(self, port)
        except OSError as error:
            raise UserError(f"port {port} of 127.0.0.1 cannot be used: {error.strerror}") from None
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        outside = {name: os.environ[name] for name in _FROM_OUTSIDE if name in os.environ}
        own = {"AWS_ENDPOINT_URL_LAMBDA": self.url, "AWS_LAMBDA_FUNCTION_NAME": self.function}
        self.environment = {**_BY_DEFAULT, **outside, **own, **(environment or {})}
        # The kernel ends a sandbox with the thread that started it: those of a pool last as long as the pool.
        self._pool = ThreadPoolExecutor(concurrency, "sandbox")

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()
        self._pool.shutdown(wait=False, cancel_futures=True)
        for sandbox in self._all():
            sandbox.kill()
        self._pool.shutdown()
        for sandbox in self._all():
            sandbox.close()

    def reports(self) -> list[InvocationReport]:
        """Return what each invocation so far took, in the order of their ends."""
        return list(self._reports)

    def stats(self) -> dict[str, int]:
        """Return the numbers of invocations begun, cold starts, retries, duplicates, throttled calls and failures, and
        of sandboxes that run and are idle now.
        """
        return {**self._count, "running": len(self._running), "idle": len(self._idle)}

    def kill_one(self) -> bool:
        """Kill the function of a random sandbox that runs an invocation; return whether there was one."""
        running = list(self._running)
        if running:
            running[int(len(running) * self._draws.unit("victim", ""))].kill()
        return bool(running)

    def pids(self) -> list[int]:
        """Return the ids of all processes of all sandboxes."""
        return [pid for sandbox in self._all() for pid in sandbox.pids()]

    def throttled(self, event: bool) -> str | None:
        """Count a call of Invoke in, or return why it is answered 429."""
        drawn = self._draws.unit("throttle", "") < self.shares["throttles"]
        with self._lock:
            if not drawn and (event or self._active < self.concurrency):
                self._active += 1
                return None
            self._count["throttles"] += 1
        return "FunctionInvocationRateLimitExceeded" if drawn else "ConcurrentInvocationLimitExceeded"

    def invoke(self, payload: bytes, context: str) -> tuple[bytes, InvocationReport] | None:
        """Run an invocation that `throttled` counted in; return None if its sandbox could not start."""
        with contextlib.suppress(RuntimeError, CancelledError):  # closed meanwhile
            return self._pool.submit(self._run, payload, context).result()
        return None

    def accept(self, payload: bytes, context: str) -> None:
        """Queue an event that `throttled` counted in, now and then twice."""
        event = _Event(payload, context, time.monotonic())
        self._queue(event)
        if self._draws.unit("duplicate", "") < self.shares["duplicates"]:
            self._again(event, "duplicates")

    def _again(self, event: _Event, why: str) -> None:
        with self._lock:
            self._count[why] += 1
            self._active += 1
        self._queue(event)

    def _queue(self, event: _Event) -> None:
        with contextlib.suppress(RuntimeError):  # closed meanwhile
            self._pool.submit(self._deliver, event)

    def _deliver(self, event: _Event) -> None:
        done = self._run(event.payload, event.context)
        failed = done is None or done[1].status != "success"
        if failed and event.attempt < _RETRIES and time.monotonic() - event.born < _EVENT_LIVES_S:
            again = partial(self._again, replace(event, attempt=event.attempt + 1), "retries")
            _later(self._retry_after_s * (event.attempt + 1), again)

    def _run(self, payload: bytes, context: str) -> tuple[bytes, InvocationReport] | None:
        fate, failures = self._draws.unit("failure", ""), self.shares["failures"]
        starts, lives = fate >= failures / 2, fate >= failures
        try:
            with self._lock:
                self._count["invocations"] += 1
                self._count["failures"] += not lives
            return self._in_sandbox(payload, context, lives) if starts else None
        except OSError as error:
            self._print(f"a sandbox could not start: {error}")
            return None
        finally:
            with self._lock:
                self._active -= 1

    def _in_sandbox(self, payload: bytes, context: str, lives: bool) -> tuple[bytes, InvocationReport]:
        with self._lock:
            sandbox = self._idle.pop() if self._idle else None
            self._count["cold"] += sandbox is None
        if sandbox is None:
            sandbox = Sandbox(
                self._program, self.handler, self.environment, self.memory_mb, self.timeout_s, self._print
            )
        self._running.add(sandbox)
        if self._closed.is_set():
            sandbox.kill()
        doom = None if lives else _later(_FAILS_WITHIN_S * self._draws.unit("moment", ""), sandbox.kill)
        reusable = False
        try:
            answer, report = sandbox.invoke(payload, context)
            self._reports.append(report)
            reusable = report.status in ("success", "error") and not self._closed.is_set()
            return answer, report
        finally:
            if doom:
                doom.cancel()
            if reusable:
                sandbox.freeze()
            self._running.discard(sandbox)  # before another invocation may take it
            if reusable:
                with self._lock:
                    self._idle.append(sandbox)
            else:
                sandbox.close()

    def _all(self) -> list[Sandbox]:
        return [*self._idle, *self._running]

    def _watch(self) -> None:
        while not self._closed.wait(_WATCH_S):
            for sandbox in list(self._running):
                sandbox.watch()
            with self._lock:
                old = [sandbox for sandbox in self._idle if time.monotonic() - sandbox.idle_since > IDLE_S]
                self._idle = [sandbox for sandbox in self._idle if sandbox not in old]
            for sandbox in old:
                sandbox.close()

    def _print(self, line: str) -> None:
        if self._log is not None:
            self._log.write(line + "\n")
            self._log.flush()


def _later(seconds: float, action: Callable[[], None]) -> threading.Timer:
    timer = threading.Timer(seconds, action)
    timer.daemon = True
    timer.start()
    return timer


def serve_lambda(local: LocalLambda, stay: bool = False) -> None:
    """Print the URL and serve until standard input ends, unless it shall `stay`, or until SIGTERM or SIGINT."""
    ends = (signal.SIGTERM, signal.SIGINT)

    def leave(*_: object) -> None:
        for number in ends:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    with local, contextlib.suppress(KeyboardInterrupt):
        for number in ends:
            signal.signal(number, leave)
        print(local.url, flush=True)
        while stay or os.read(0, 65536):
            if stay:
                signal.pause()


def main() -> None:
    """Serve with options that are named as the arguments of `LocalLambda`."""
    parser = argparse.ArgumentParser(
        prog="python -m lambdaml.deploy.local_lambda", description="A Lambda that runs here."
    )
    for name, parameter in inspect.signature(LocalLambda).parameters.items():
        if name not in ("environment", "log"):
            kind = type(parameter.default)
            parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=parameter.default)
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="a variable for the function")
    parser.add_argument("--log", action="store_true", help="print what sandboxes say on stderr")
    parser.add_argument("--stay", action="store_true", help="do not end with standard input")
    options = vars(parser.parse_args())
    stay, log = options.pop("stay"), sys.stderr if options.pop("log") else None
    environment = dict(pair.split("=", 1) for pair in options.pop("env"))
    try:
        local = LocalLambda(**options, environment=environment, log=log)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    serve_lambda(local, stay)


if __name__ == "__main__":
    main()
