"""Invokes functions on AWS Lambda, or on whatever speaks its Invoke API.

An event says what an invocation is for, in `do`:

| `do` | what the handler (`lambdaml.deploy.handler`) does | invoked |
|---|---|---|
| `survey` | says whether a run could work there, and in which numerics class | by the launcher, which waits |
| `work` | starts functions `first + 1` to `last - 1`, and works as function `first` | and nobody waits |
| `evaluate` | evaluates the snapshots that have no metrics | and nobody waits |
| `keep` | starts the functions of the run's newest launch again if all have fallen silent | by a schedule, or by hand |

Functions start each other in a tree. Whoever is to start many divides them into at most `FAN_OUT` ranges and invokes the
first function of each, which starts the rest of its range. So a thousand functions start in two steps.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import import_module
from typing import Any

from lambdaml.errors import AccessDenied, RunFailed, SettingsError
from lambdaml.log import keys
from lambdaml.log.holders import seem_working
from lambdaml.log.launches import SHOW_LEASES, Launch
from lambdaml.storage import Store
from lambdaml.storage.endpoint import is_local
from lambdaml.storage.place import CONNECT_TIMEOUT_S
from lambdaml.storage.profile import HOW, boto_session, plain_session
from lambdaml.worker.leases import Before

FAN_OUT = 32
"""A function starts at most this many others."""

_ENDPOINTS = ("AWS_ENDPOINT_URL_LAMBDA", "AWS_ENDPOINT_URL")
"""These variables name another server than AWS's own."""

CALLS_AT_ONCE = 8
"""Invocations are asked for by this many threads."""

ANSWER_S = 120.0
"""An invocation that is waited for may take this many seconds, most of which is a first start."""

_ATTEMPTS = 5
"""A call that Lambda refuses for lack of room is made this many times, after pauses that grow up to 20 s."""


class NoRoom(RunFailed):
    """Lambda works on as many invocations as it may, and has refused another one again and again."""


@dataclass(frozen=True, slots=True)
class Work:
    """What an invocation works on.

    Attributes:
        launch: The name of the launch; see `lambdaml.log.launches`.
        run: The URL of the run.
        functions: The number of functions of the launch.
        first, last: The range of functions to start; the invocation itself is the first of them.
        life: The number of this life of the first function.
        lifetime_s: The longest life of a function, if it is shorter than the platform's limit; None otherwise.
        version: The version of lambdaml that the launcher has.
        before: The knowledge of the life before, when it left.
        cap: The cap that functions keep, in plain values, or None; see `lambdaml.engines.caps`.
    """

    launch: str
    run: str
    functions: int
    first: int
    last: int
    life: int
    lifetime_s: float | None
    version: str
    before: Before = field(default_factory=Before)
    cap: Mapping[str, Any] | None = None

    @staticmethod
    def of_event(event: Mapping[str, Any]) -> Work:
        """Return the work that an event asks for."""
        told = event["before"]
        before = Before(told["commits"], {int(worker): seconds for worker, seconds in told["silent"].items()})
        known = {each.name for each in fields(Work)}
        return Work(**{name: value for name, value in event.items() if name in known} | {"before": before})

    def to_event(self) -> dict[str, Any]:
        """Return the event that asks for this work."""
        return {"do": "work", **asdict(self)}

    def only(self, index: int, life: int) -> Work:
        """Return the work of one function alone, in this life of it."""
        return replace(self, first=index, last=index + 1, life=life, before=Before())


def ranges(first: int, last: int) -> Iterator[tuple[int, int]]:
    """Yield at most `FAN_OUT` ranges of nearly the same length that make up the range from `first` to `last`."""
    count = last - first
    parts = min(count, FAN_OUT)
    for part in range(parts):
        yield first + part * count // parts, first + (part + 1) * count // parts


class Invoker:
    """Invokes one Lambda function.

    Args:
        function: The name of the Lambda function, or its ARN.
        region: The region; by default that of the environment or the AWS profile, or else us-east-1.
        endpoint_url: The address of a server that speaks Lambda's API; by default that of the environment, or else AWS's own.

    Attributes:
        near: Whether that server is on this machine.
    """

    def __init__(self, function: str, region: str = "", endpoint_url: str = "") -> None:
        endpoint_url = endpoint_url or next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), "")
        self._function = function
        config: Any = import_module("botocore.config").Config
        self._errors: Any = import_module("botocore.exceptions")
        self.near = is_local(endpoint_url or None)
        session: Any = plain_session() if self.near else boto_session()[0]
        keys = {"aws_access_key_id": "local", "aws_secret_access_key": "local"} if self.near else {}
        self._region = region or (session.region_name or "us-east-1")
        self._client = session.client(
            "lambda",
            region_name=self._region,
            endpoint_url=endpoint_url or None,
            config=config(
                connect_timeout=CONNECT_TIMEOUT_S,
                read_timeout=ANSWER_S,
                retries={"total_max_attempts": _ATTEMPTS, "mode": "standard"},
                max_pool_connections=CALLS_AT_ONCE,
                proxies={} if self.near else None,
            ),
            **keys,
        )

    def start(self, launch: Launch, work: Work, by: str = "") -> int:
        """Start the functions of the work's range, as a tree, and return how many of them were invoked from here.

        Those whose life somebody else has claimed are left out. If Lambda has room for some only, these go on and invoke
        the others later.

        Raises:
            SettingsError, AccessDenied, RunFailed: If Lambda refuses, or has room for none.
        """
        refused: list[NoRoom] = []

        def invoke(part: tuple[int, int]) -> bool:
            if not launch.claim(part[0], work.life, by=by):
                return False
            try:
                self.send({**work.to_event(), "first": part[0], "last": part[1]})
            except NoRoom as error:
                refused.append(error)
                return False
            return True

        with ThreadPoolExecutor(CALLS_AT_ONCE, thread_name_prefix="invoke") as pool:
            invoked = sum(pool.map(invoke, ranges(work.first, work.last)))
        if refused and not invoked:
            raise refused[0]
        return invoked

    def send(self, event: Mapping[str, Any]) -> None:
        """Invoke the function, and do not wait for it.

        Raises:
            SettingsError, AccessDenied, RunFailed: If Lambda refuses.
        """
        self._invoke("Event", event)

    def ask(self, event: Mapping[str, Any]) -> Any:
        """Invoke the function, and return what it returns.

        Raises:
            SettingsError, AccessDenied: If Lambda refuses.
            RunFailed: If it does not answer, or the function failed.
        """
        answer = self._invoke("RequestResponse", event)
        found = json.loads(answer["Payload"].read() or b"null")
        if "FunctionError" in answer:
            text = found.get("errorMessage", "") if isinstance(found, dict) else str(found)
            raise RunFailed(f"{self._name} failed: {text.splitlines()[0] if text else answer['FunctionError']}")
        return found

    @property
    def _name(self) -> str:
        return f"the Lambda function {self._function!r} in {self._region}"

    def _invoke(self, how: str, event: Mapping[str, Any]) -> Any:
        payload = json.dumps(event).encode()
        try:
            return self._client.invoke(FunctionName=self._function, InvocationType=how, Payload=payload)
        except self._errors.ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code in ("ResourceNotFoundException", "ResourceNotFound"):
                raise SettingsError(f"{self._name} does not exist: 'lambdaml deploy aws' makes one") from None
            if code in ("AccessDeniedException", "UnrecognizedClientException", "InvalidSignatureException"):
                raise AccessDenied(f"{self._name}: lambda:InvokeFunction is denied ({code})") from None
            if code == "TooManyRequestsException":
                raise NoRoom(f"{self._name} has no room: it works on as many invocations as it may") from None
            raise RunFailed(f"{self._name} cannot be invoked ({code})") from None
        except (self._errors.NoCredentialsError, self._errors.CredentialRetrievalError) as error:
            raise AccessDenied(f"{self._name}: no AWS credentials ({type(error).__name__}); {HOW}") from None
        except self._errors.BotoCoreError as error:
            raise RunFailed(f"{self._name} cannot be reached ({type(error).__name__})") from None


def keep(store: Store, lease_s: float, launch: Launch, work: Work, invoker: Invoker, by: str = "") -> int:
    """Start all functions of a launch again if none of them works any more, and the run has not ended.

    Args:
        store: The run's bucket.
        lease_s: The seconds of the run's leases.
        by: The name of who asks; empty for the launcher.

    Returns:
        The number of functions that were invoked.
    """
    if launch.over() or store.head(keys.MODEL) is not None or seem_working(store, launch.commits(), time.time()):
        return 0
    return sum(invoke_again(index, lease_s, launch, work, invoker, by) for index in range(work.functions))


def invoke_again(index: int, lease_s: float, launch: Launch, work: Work, invoker: Invoker, by: str = "") -> bool:
    """Start function `index` again that seems to have died, and return whether it was invoked; see `Launch.revive`."""
    life = launch.revive(index, SHOW_LEASES * lease_s, by)
    if life is not None:
        invoker.send(work.only(index, life).to_event())
    return life is not None
