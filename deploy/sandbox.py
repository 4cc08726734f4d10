"""One execution environment of the Lambda that runs here: a process of AWS's Runtime Interface Emulator (RIE), which
starts and ends AWS's runtime client `awslambdaric` with the handler.

Seen on the emulator of aws-sam-cli 1.170.0:

* It initialises at the first invocation, not at its own start. Duration and Billed Duration of that REPORT line contain
  the initialisation, as AWS bills it since August 2025, and so does the time limit, which on AWS starts after it. Its
  Init Duration is wrong (0.1 ms); the true one stands in the line `INIT REPORT`, and `duration_ms` here is without it.
* It takes one invocation at a time and panics at a second one. It draws a request id of its own for each, so that the
  id which a function sees is not that of the call, and a retried event gets a new one (AWS keeps it).
* An error that a handler raised is answered with status 200 and no header; only the request id within tells it from a
  result. A time limit is answered with 200 and a text that is no JSON. A process that ended is answered with 502 and no
  REPORT line, so that its duration is measured here. The runtime starts again at the next invocation, but a sandbox
  whose process ended is not used again here.
* It does not enforce the memory limit, reports it as Max Memory Used, and sets absent credentials to empty strings.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import math
import os
import platform
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lambdaml.errors import UserError

InvocationStatus = Literal["success", "error", "timeout", "killed", "memory"]

_START_S = 10.0
_REPORT_S = 1.0
"""A REPORT line stands in the output before the emulator answers; this many seconds are for it to be read."""
_ANSWER_S = 60.0
"""After the time limit and this many seconds more, the emulator itself is taken for dead."""

# The kernel kills the emulator with the thread that started it, and the runtime with its emulator: a frozen process
# could not end by itself. The runtime then starts as with `python -m awslambdaric`.
_EMULATOR = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.getppid() == int(sys.argv[1]) or os._exit(1); "
    "os.execv(sys.argv[2], sys.argv[2:])"
)
_RUNTIME = (
    "import ctypes, os, runpy; ctypes.CDLL(None).prctl(1, 9); "
    "os.environ.get('AWS_SESSION_TOKEN') or os.environ.pop('AWS_SESSION_TOKEN', None); "
    "runpy.run_module('awslambdaric', run_name='__main__', alter_sys=True)"
)
_LINE = re.compile(
    r"START RequestId: (?P<id>\S+)|.*INIT REPORT\(durationMs: (?P<init>[\d.]+)\)"
    r"|REPORT RequestId: \S+\t(?:Init Duration: \S+ ms\t)?Duration: (?P<ms>[\d.]+) ms\tBilled Duration: (?P<billed>\d+) ms"
)


@dataclass(frozen=True, slots=True)
class InvocationReport:
    """Says what one invocation took.

    Attributes:
        request_id: The id that the function saw.
        duration_ms: The milliseconds that the handler took.
        billed_ms: The milliseconds that are billed, which are those of handler and initialisation, rounded up.
        init_ms: The milliseconds that a cold start took to import the handler; 0 if the sandbox was warm.
        memory_mb: The function's memory in MB.
        cold: True if the sandbox was started for this invocation.
        status: "success", "error" (the handler raised), "timeout", "killed" (its process ended) or "memory" (it was
            killed because it used more than it may).
    """

    request_id: str
    duration_ms: float
    billed_ms: int
    init_ms: float
    memory_mb: int
    cold: bool
    status: InvocationStatus


def emulator() -> str:
    """Return the path of the emulator's program. Raises UserError if it or the runtime client is not installed."""
    if importlib.util.find_spec("awslambdaric") is None:
        raise UserError("awslambdaric is not installed: pip install 'lambdaml-runtime[lambda]'")
    name = {"x86_64": "aws-lambda-rie-x86_64", "aarch64": "aws-lambda-rie-arm64"}.get(platform.machine(), "none")
    package = importlib.util.find_spec("samcli")
    roots = [*(package.submodule_search_locations or [] if package else []), f"{sys.prefix}/samcli/samcli"]
    if own := os.environ.get("LAMBDAML_RIE"):
        places = [own]
    else:
        places = [*(f"{root}/local/rapid/{name}" for root in roots), shutil.which("aws-lambda-rie") or ""]
    found = next((place for place in places if os.access(place, os.X_OK) and Path(place).is_file()), None)
    if found is None:
        where = f"no program {own}, which $LAMBDAML_RIE names" if own else "no Lambda emulator here"
        raise UserError(f"there is {where}: pip install --no-deps --target {sys.prefix}/samcli aws-sam-cli brings one")
    return found


class Sandbox:
    """A sandbox that runs one invocation at a time; its process does not run between them.

    Args:
        program: The path of the emulator.
        handler: The handler as `module.function`, found from the working folder.
        environment: The whole environment of the function, but for the variables that the sandbox itself sets.
        memory_mb: The most memory that the function's processes may use together, in MB.
        timeout_s: The most seconds that an invocation may take.
        log: A function that gets each line of output.
    """

    def __init__(
        self,
        program: str,
        handler: str,
        environment: Mapping[str, str],
        memory_mb: int,
        timeout_s: int,
        log: Callable[[str], None],
    ) -> None:
        self._memory_mb, self._timeout_s, self._log = memory_mb, timeout_s, log
        self._folder = tempfile.TemporaryDirectory(prefix="lambda-", ignore_cleanup_errors=True)
        self._ports = [_held_port() for _ in range(2)]
        (self._port, api) = (held.getsockname()[1] for held in self._ports)
        limits = {"AWS_LAMBDA_FUNCTION_TIMEOUT": str(timeout_s), "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(memory_mb)}
        addresses = [
            *("--runtime-interface-emulator-address", f"127.0.0.1:{self._port}"),
            *("--runtime-api-address", f"127.0.0.1:{api}"),
        ]
        self._said: queue.SimpleQueue[re.Match[str]] = queue.SimpleQueue()
        self._request_id, self._init_ms = "", 0.0
        self._cold, self._over = True, False
        self.idle_since = math.inf
        tied = [sys.executable, "-ISc", _EMULATOR, str(os.getpid())]
        self._process = subprocess.Popen(
            [*tied, program, *addresses, sys.executable, "-c", _RUNTIME, handler],
            env={**environment, **limits, **dict.fromkeys(("HOME", "TMPDIR"), self._folder.name)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        threading.Thread(target=self._listen, daemon=True).start()

    def invoke(self, payload: bytes, context: str) -> tuple[bytes, InvocationReport]:
        """Run an invocation, and return the answer, which is an error's if the report's status is not "success".

        Args:
            payload: The event as JSON.
            context: The client context in base64, or "".
        """
        _send(signal.SIGCONT, _descendants(self._process.pid))
        self._said = queue.SimpleQueue()
        self._request_id, self._init_ms, self.idle_since = str(uuid.uuid4()), 0.0, math.inf
        self._await_start()
        began = time.monotonic()
        try:
            code, answer = self._post(payload, context)
        except (OSError, http.client.HTTPException):
            code, answer = 502, b""
        duration_ms = 1000 * (time.monotonic() - began)
        billed_ms = math.ceil(duration_ms)
        if code == 200:
            with contextlib.suppress(queue.Empty):
                said = self._said.get(timeout=_REPORT_S)
                duration_ms, billed_ms = float(said["ms"]), int(said["billed"])
        status = self._status(code, answer)
        if not answer:
            answer = _error("Runtime.ExitError", self._request_id, "Runtime exited with error: signal: killed")
        elif status == "timeout":
            answer = _error("Sandbox.Timedout", self._request_id, answer.decode())
        handler_ms = max(round(duration_ms - self._init_ms, 2), 0.0)
        report = InvocationReport(
            self._request_id, handler_ms, billed_ms, self._init_ms, self._memory_mb, self._cold, status
        )
        self._cold = False
        return answer, report

    def freeze(self) -> None:
        """Stop the function's processes until the next invocation."""
        self.idle_since = time.monotonic()
        _send(signal.SIGSTOP, _descendants(self._process.pid))

    def kill(self) -> None:
        """Kill all processes: the emulator itself would start a function again that was killed while it initialised."""
        pids = _descendants(self._process.pid)
        self._process.kill()
        _send(signal.SIGKILL, pids)

    def watch(self) -> None:
        """Kill the function if it uses more memory than it may. What its processes share is counted once."""
        limit, pids = self._memory_mb << 10, _descendants(self._process.pid)
        if sum(_kib(pid, "status", "VmRSS:") for pid in pids) > limit and (
            len(pids) == 1 or sum(_kib(pid, "smaps_rollup", "Pss:") for pid in pids) > limit
        ):
            self._over = True
            self.kill()

    def pids(self) -> list[int]:
        """Return the ids of the emulator's process and of the function's."""
        return [self._process.pid, *_descendants(self._process.pid)]

    def close(self) -> None:
        """End all processes and remove the folder."""
        self.kill()
        self._process.wait()
        for held in self._ports:
            held.close()
        self._folder.cleanup()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in output:
                text = line.decode(errors="replace").rstrip("\n")
                if found := _LINE.match(text):
                    self._request_id = found["id"] or self._request_id
                    self._init_ms += float(found["init"] or 0)
                    if found["ms"]:
                        self._said.put(found)
                self._log(text)

    def _await_start(self) -> None:
        deadline = time.monotonic() + _START_S
        while self._process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), 1):
                return
            time.sleep(0.005)

    def _post(self, payload: bytes, context: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=self._timeout_s + _ANSWER_S)
        with contextlib.closing(connection):
            headers = {"X-Amz-Client-Context": context} if context else {}
            connection.request("POST", "/2015-03-31/functions/function/invocations", payload, headers)
            response = connection.getresponse()
            return response.status, response.read()

    def _status(self, code: int, answer: bytes) -> InvocationStatus:
        if self._over:
            return "memory"
        if code != 200:
            return "killed"
        if answer.startswith(b"Task timed out"):
            return "timeout"
        said = json.loads(answer) if b'"requestId"' in answer else None
        return "error" if isinstance(said, dict) and said.get("requestId") == self._request_id else "success"


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for listed in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in map(int, listed.read_text().split()):
                found += [child, *_descendants(child)]
    return found


def _send(number: signal.Signals, pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _kib(pid: int, file: str, entry: str) -> int:
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
        return next((int(line.split()[1]) for line in lines if line.startswith(entry)), 0)
    return 0


def _held_port() -> socket.socket:
    """Return a socket that keeps a free port for the emulator: whoever listens later may bind it, but nobody is given
    it."""
    held = socket.socket()
    held.bind(("127.0.0.1", 0))
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return held


def _error(kind: str, request_id: str, message: str) -> bytes:
    return json.dumps({"errorType": kind, "errorMessage": f"RequestId: {request_id} Error: {message}"}).encode()
