"""The face of the Lambda that runs here: AWS's API for invoking and describing a function, in AWS's shapes.

As on AWS, a payload must be JSON, of at most 6 MB in a synchronous call and 1 MB in an event. Signatures, permissions,
versions and log tails are not looked at.
"""

from __future__ import annotations

import json
import sys
import urllib.parse
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lambdaml.deploy.local_lambda import LocalLambda

_SYNC_BYTES, _EVENT_BYTES = 6 * 2**20, 2**20
_ACCOUNT = "arn:aws:lambda:us-east-1:012345678912"


class InvokeServer(ThreadingHTTPServer):
    """Serves a function at 127.0.0.1, with one thread for each connection.

    Args:
        local: The function.
        port: The port; 0 takes a free one.

    Raises:
        OSError: If the port is taken.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 1024

    def __init__(self, local: LocalLambda, port: int) -> None:
        super().__init__(("127.0.0.1", port), partial(_Call, local))

    def handle_error(self, *connection: Any) -> None:
        """Say nothing of callers that did not wait for their answer."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(*connection)


class _Call(BaseHTTPRequestHandler):
    """Answers the calls of one connection in AWS's shapes."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, local: LocalLambda, *connection: Any) -> None:
        self._local = local
        super().__init__(*connection)

    def log_message(self, *_: object) -> None:
        """Say nothing: sandboxes log what is of interest."""

    def do_GET(self) -> None:
        local, path = self._local, urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).rstrip("/")
        if path == "/reports":
            return self._answer(200, [asdict(report) for report in local.reports()])
        if path == "/stats":
            return self._answer(200, local.stats())
        if path == "/2016-08-19/account-settings":
            limit = {"ConcurrentExecutions": local.concurrency, "UnreservedConcurrentExecutions": local.concurrency}
            return self._answer(200, {"AccountLimit": limit, "AccountUsage": {"FunctionCount": 1}})
        name, _, what = path.removeprefix("/2015-03-31/functions/").partition("/")
        if not self._is_ours(name):
            return None
        configuration = {
            "FunctionName": local.function,
            "FunctionArn": f"{_ACCOUNT}:function:{local.function}",
            "Handler": local.handler,
            "Timeout": local.timeout_s,
            "MemorySize": local.memory_mb,
            "Version": "$LATEST",
            "State": "Active",
            "LastUpdateStatus": "Successful",
            "PackageType": "Zip",
            "Runtime": f"python{sys.version_info.major}.{sys.version_info.minor}",
            "EphemeralStorage": {"Size": 512},
        }
        return self._answer(200, configuration if what == "configuration" else {"Configuration": configuration})

    def do_POST(self) -> None:
        payload = self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}"
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        name = path.removeprefix("/2015-03-31/functions/").removesuffix("/invocations")
        kind = self.headers.get("X-Amz-Invocation-Type") or "RequestResponse"
        most = _EVENT_BYTES if kind == "Event" else _SYNC_BYTES
        if not self._is_ours(name):
            return None
        if len(payload) > most:
            said = f"{len(payload)} byte payload is too large for the {kind} invocation type (limit {most} bytes)"
            return self._refuse(413, "RequestTooLargeException", said)
        try:
            json.loads(payload)
        except ValueError as error:
            return self._refuse(
                400, "InvalidRequestContentException", f"Could not parse request body into json: {error}"
            )
        if kind == "DryRun":
            return self._answer(204, None)
        if reason := self._local.throttled(kind == "Event"):
            return self._refuse(429, "TooManyRequestsException", "Rate Exceeded.", Reason=reason)
        context = self.headers.get("X-Amz-Client-Context") or ""
        if kind == "Event":
            self._local.accept(payload, context)
            return self._answer(202, None)
        done = self._local.invoke(payload, context)
        if done is None:
            return self._refuse(500, "ServiceException", "The function's execution environment could not start.")
        answer, report = done
        unhandled = {} if report.status == "success" else {"X-Amz-Function-Error": "Unhandled"}
        return self._answer(200, answer, {"X-Amz-Executed-Version": "$LATEST", **unhandled}, report.request_id)

    def _is_ours(self, name: str) -> bool:
        """Return whether a name is the function's, and refuse the call if it is not."""
        bare = bare_name(name)
        if bare != self._local.function:
            said = f"Function not found: {_ACCOUNT}:function:{bare}"
            self._refuse(404, "ResourceNotFoundException", said)
        return bare == self._local.function

    def _refuse(self, code: int, kind: str, message: str, **more: str) -> None:
        body = {"Type": "Service" if code == 500 else "User", "message": message, **more}
        self._answer(code, body, {"x-amzn-ErrorType": kind})

    def _answer(
        self, code: int, body: Any, headers: Mapping[str, str] | None = None, request_id: str | None = None
    ) -> None:
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        all_headers = {"x-amzn-RequestId": request_id or str(uuid.uuid4()), **(headers or {})}
        if code != 204:
            all_headers |= {"Content-Type": "application/json", "Content-Length": str(len(data))}
        for name, value in all_headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def bare_name(name: str) -> str:
    """Return a function's name from its ARN, a part of that, or the name, with or without a qualifier."""
    return name.rpartition("function:")[2].partition(":")[0]
