"""The engine `ray` runs functions as Ray tasks, on one machine or on a cluster.

Ray finds room for tasks, leases say which function works as which worker, and Ray restarts nothing (`max_retries=0`).
All functions are asked for at once, each with its workers. A function that finds no room waits in Ray's queue, and
running functions are its backup until it starts; then it takes its workers back, by their leases. So nodes that join
later are used, and the functions of a node that died are missing for seconds only.

Functions and engine meet at the *mailbox*, a small actor on the head node. Functions send their events there twice a
second, and the engine's answer says whether to leave and which workers to be a backup for. A function on a node that
Ray drains, for instance because a spot instance got notice, is asked to leave.

The job's code travels with its folder, as the `working_dir` of Ray's runtime environment, or is pickled by Ray if it
was given as an object; lambdaml itself must be installed on the nodes.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lambdaml.engines import LaunchSpec
from lambdaml.engines.supervise import DONE, ENVIRONMENT, LEFT, error_event, supervise
from lambdaml.errors import LambdaMLError, RunFailed, SettingsError, UserError
from lambdaml.events import Emit, EndedEvent, Event, RoomEvent, SentEvent, event_of
from lambdaml.training.numerics import ONE_CORE, VARIABLES
from lambdaml.training.one_thread import OneThread
from lambdaml.training.source import split_spec

try:
    import ray
    from ray import exceptions

    from lambdaml.engines.raypackage import send
    from lambdaml.engines.raypulse import Pulse
    from lambdaml.engines.raytask import LISTENERS, Mailbox, ask, run_task
except ImportError:
    raise UserError("engine 'ray' needs Ray: pip install 'lambdaml-runtime[ray]'") from None

HEAD = {"node:__internal_head__": 0.001}
"""Only the head node has this resource; its death ends the cluster anyway. A soft affinity could choose any node."""

TICK_S = 0.25
"""The engine looks this often, in seconds, for functions that ended without a word."""

GRACE_S = 5.0
"""After this many seconds without a start, other functions become the backup of those that wait for room."""

DRAIN_S = 4.0
"""The engine looks this often, in seconds, for nodes that are being drained."""

_REPORT_WAIT_S = 10.0
"""If no function has room for this many seconds, the engine reports it."""

GONE_S = 10.0
"""Functions are asked to leave after this many seconds without an answer from Ray's control service. Ray itself waits
60 seconds, and then ends this process."""

LAST_S = 20.0
"""Functions that were asked to leave because Ray's control service is gone may take this many seconds."""


class RayEngine:
    """Runs each function as a Ray task.

    Args:
        address: `auto`, `host:port`, or `local` for a Ray of our own, which ends with the engine. The default is the
            Ray that this process is connected to, else `$RAY_ADDRESS`, else `local`.
        cpus: The number of CPUs that each function takes up.
        gpus: The number of GPUs that each function takes up. With any, functions compute on `cuda`, else on `cpu`.
        memory_bytes: The memory that Ray sets aside on a node for each function. Ray only counts it and does not
            enforce it.
        resources: The custom resources that each function takes up, by the names that nodes give them, such as
            `{"tpu": 1}`.
    """

    takes_objects = True
    in_process = False
    nearby = False

    def __init__(
        self,
        address: str = "",
        cpus: float = 1.0,
        gpus: float = 0.0,
        memory_bytes: float = 0.0,
        resources: Mapping[str, float] | None = None,
    ) -> None:
        resources = dict(resources or {})
        if min(cpus, gpus, memory_bytes, *resources.values()) < 0:
            raise ValueError("cpus, gpus, memory_bytes and resources must be 0 or more")
        if own := sorted({"CPU", "GPU", "memory", "object_store_memory"} & set(resources)):
            raise ValueError(f"resources: {own[0]} is asked for by cpus, gpus or memory_bytes")
        self._address = address
        self._needs = {"num_cpus": cpus, "num_gpus": gpus, "memory": int(memory_bytes) or None, "resources": resources}
        self._compute = OneThread()
        self._ours = False

    @property
    def compute(self) -> OneThread:
        return self._compute

    def start(self) -> None:
        """Connect to Ray, or start it. This does not happen in the background, so that a wrong address leaves no run
        behind.

        Raises:
            SettingsError: If no Ray is at the address, or the process is connected to another one.
        """
        from lambdaml.storage.ray import connect

        connected = ray.is_initialized()
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else Ray warns of a future change
        try:
            connect(self._address or None)
        except LambdaMLError as error:
            raise SettingsError(str(error)) from None
        self._ours = not connected

    def run(self, launch: LaunchSpec, emit: Emit) -> None:
        pulse = Pulse(ray.get_runtime_context().gcs_address, _draining_nodes, DRAIN_S)
        try:
            crew = _Crew(launch, self._needs, _environment(launch.settings.job.spec, launch.store.url, emit), pulse)
            try:
                supervise(crew, launch.functions, emit)
            finally:
                if pulse.silent_s() < GONE_S:  # else Ray would wait for its control service
                    crew.close()
        except exceptions.RayError as error:
            raise RunFailed(_gone(pulse) if pulse.silent_s() > GONE_S else f"Ray: {_line_of(error)}") from None
        finally:
            pulse.close()

    def close(self) -> None:
        if self._ours:
            self._ours = False
            ray.shutdown()
        self._compute.shutdown(wait=True)


@dataclass(slots=True)
class _Member:
    """Holds one function from the request for it to its end. `node` is where it runs, "" while it waits for room."""

    name: str
    task: Any
    assigned: Sequence[int]
    asked: float = field(default_factory=time.monotonic)
    node: str = ""


class _Crew:
    """Manages the functions of one call of `run`, and which function should work as which worker."""

    def __init__(self, launch: LaunchSpec, needs: Mapping[str, Any], environment: dict[str, Any], pulse: Pulse) -> None:
        self._launch = launch
        self._pulse = pulse
        self._gone_at: float | None = None
        desk = ray.remote(Mailbox).options(
            num_cpus=0, resources=HEAD, runtime_env=environment, max_concurrency=LISTENERS
        )
        self._desk: Any = desk.remote()
        self._function: Any = ray.remote(run_task).options(
            **needs, max_retries=0, runtime_env=environment, name="lambdaml", scheduling_strategy="SPREAD"
        )
        self._needs = _in_words(needs)
        self._common = {
            "url": launch.store.url,
            "desk": self._desk,
            "device": "cuda" if needs["num_gpus"] else "cpu",
            "lifetime_s": launch.lifetime_s,
            "job": None if launch.settings.job.fingerprint else ray.put(launch.job),
        }
        self._token = secrets.token_hex(4)
        self._count = itertools.count(1)
        self._members: dict[str, _Member] = {}
        self._holders: dict[int, str] = {}
        self._words: dict[str, dict[str, Any]] = {}
        self._seen = 0
        self._leaving = self._over = False
        self._started = self._reported = time.monotonic()

    def start(self, index: int, dead: Sequence[str]) -> str:
        name = f"ray-{self._token}.{next(self._count)}"
        assigned = self._launch.assigned(index)
        task = self._function.remote(name=name, assigned=assigned, dead=list(dead[-32:]), **self._common)
        self._members[name] = _Member(name, task, assigned)
        return name

    def leave(self) -> None:
        self._leaving = True
        self._tell()
        for member in self._members.values():
            if not member.node:
                ray.cancel(member.task)

    def events(self) -> Iterator[Event]:
        while self._members:
            # Look at them first: the mailbox has by now whatever these said before they ended.
            tasks = {member.task: member for member in self._members.values()}
            ended, _ = ray.wait(list(tasks), num_returns=len(tasks), timeout=0)
            yield from self._heed_pulse()
            for record in self._ask(lambda: self._desk.take.remote(self._seen, 0.0 if ended else TICK_S)):
                self._seen += 1
                if (event := event_of(record)) is not None:
                    self._note(event)
                    yield event
            for task in ended:
                yield self._end(tasks[task])
            if not self._leaving:
                yield from self._check_room()
                self._heed_drains()
                self._find_standins()

    def _heed_pulse(self) -> Iterator[Event]:
        """Report when Ray's control service is gone, and ask the functions to leave, which they can do for a while.

        Raises:
            RunFailed: If they did not leave.
        """
        now = time.monotonic()
        if self._gone_at is None and self._pulse.silent_s() > GONE_S:
            self._gone_at = now
            yield error_event("", RunFailed(_gone(self._pulse)))
        elif self._gone_at is not None and now - self._gone_at > LAST_S:
            raise RunFailed(_gone(self._pulse))

    def _note(self, event: Event) -> None:
        name = event.function
        if event.event == "started" and name in self._members:
            self._started = time.monotonic()
            self._members[name].node = event.node
            for worker in self._members[name].assigned:
                self._holders[worker] = name
                for word in self._words.values():
                    word["vacant"].pop(worker, None)
            self._tell()
        elif event.event == "takeover":
            self._holders[event.worker] = name

    def _end(self, member: _Member) -> Event:
        del self._members[member.name]
        self._words.pop(member.name, None)
        code, reason = _outcome(member.task)
        if code == DONE and not self._over:
            self._over = True
            self.leave()
        if code == LEFT and self._over:  # no other function need continue its work
            code = DONE
        return EndedEvent(function=member.name, code=code, reason=reason)

    def _find_standins(self) -> None:
        now = time.monotonic()
        running = [member.name for member in self._members.values() if member.node]
        waiting = [m for m in self._members.values() if not m.node and now - max(m.asked, self._started) > GRACE_S]
        if not running or not waiting:
            return
        load = Counter(self._holders.values())
        vacant = [worker for member in waiting for worker in member.assigned]
        vacant = [worker for worker in vacant if self._holders.get(worker) not in self._members]
        for worker in vacant:
            chosen = min(running, key=lambda name: load[name])
            load[chosen] += 1
            self._word(chosen)["vacant"][worker] = self._holders.get(worker, "")
            self._holders[worker] = chosen
        if vacant:
            self._tell()

    def _heed_drains(self) -> None:
        draining = self._pulse.draining
        leaving = [m.name for m in self._members.values() if m.node in draining and not self._word(m.name)["leave"]]
        for name in leaving:
            self._word(name)["leave"] = True
        if leaving:
            self._tell()

    def _check_room(self) -> Iterator[Event]:
        """Report when Ray has no room for any function.

        Raises:
            RunFailed: If it had no room for as long as the run's patience.
        """
        now = time.monotonic()
        if any(member.node for member in self._members.values()):
            return
        waited_s = now - max(self._started, *(member.asked for member in self._members.values()))
        if waited_s > _REPORT_WAIT_S and now - self._reported > _REPORT_WAIT_S:
            self._reported = now
            yield RoomEvent(needs=self._needs or "no CPU", seconds=round(waited_s, 1))
        if waited_s > self._launch.settings.patience_s:
            raise RunFailed(
                f"Ray had no room for a function, which needs {self._needs or 'no CPU'}, for {waited_s:.0f} s: ask for "
                "less or add nodes, then resume the run"
            )

    def _word(self, name: str) -> dict[str, Any]:
        return self._words.setdefault(name, {"leave": False, "vacant": {}})

    def _tell(self) -> None:
        self._ask(lambda: self._desk.tell.remote(self._words, self._leaving))

    def _ask(self, question: Callable[[], Any]) -> Any:
        return ask(question, hopeless=lambda: self._pulse.silent_s() > GONE_S)

    def close(self) -> None:
        """End the functions that are left, if any, and the mailbox."""
        for member in self._members.values():
            with contextlib.suppress(exceptions.RayError):
                ray.cancel(member.task, force=True)
        ray.kill(self._desk)


def _in_words(needs: Mapping[str, Any]) -> str:
    """Describe resources, as in `2 CPU and 1 GPU`."""
    counts = {"CPU": needs["num_cpus"], "GPU": needs["num_gpus"]}
    words = [f"{count:g} {kind}" for kind, count in (counts | needs["resources"]).items() if count]
    words += [f"{needs['memory'] / 1e9:.3g} GB of memory"] if needs["memory"] else []
    return " and ".join(words)


def _draining_nodes() -> Collection[str]:
    found: Mapping[str, int] = ray._private.state.state.get_draining_nodes()  # Ray has no public call for this
    return found.keys()


def _gone(pulse: Pulse) -> str:
    return (
        f"Ray's control service (GCS) at {pulse.address} has not answered for {pulse.silent_s():.0f} s: its head node or "
        "that process is gone, and the cluster with it. Nothing that was written is lost: start Ray again, then go on with "
        "'lambdaml resume'"
    )


def _environment(spec: str, store: str = "", emit: Emit = lambda event: None) -> dict[str, Any]:
    """Return Ray's runtime environment of a function: the job's folder, unless the caller's own Ray job ships one.

    Raises:
        SettingsError: If the folder is too large, or cannot be sent for another reason.
    """
    numerics = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    environment: dict[str, Any] = {"env_vars": {**ENVIRONMENT, **ONE_CORE, **numerics}}
    folder = _job_folder(spec)
    if folder is None or ray.get_runtime_context().runtime_env.get("working_dir"):
        return environment
    try:
        sent = send(folder, store)
    except Exception as error:
        raise SettingsError(
            f"{folder} cannot be sent to Ray's nodes: {_line_of(error)}; move the job to a folder of its own, or name "
            "what is not needed in its .rayignore"
        ) from None
    if sent.files:
        emit(SentEvent(folder=str(folder), files=sent.files, size_bytes=sent.size_bytes))
    return environment | {"working_dir": sent.uri}


def _job_folder(spec: str) -> Path | None:
    """Return the folder with the modules that a job's code imports from beside it; None if the code is installed, or in
    no file."""
    module, _ = split_spec(spec)
    if module.endswith(".py"):
        return Path(module).resolve().parent
    found = importlib.util.find_spec(module.partition(".")[0])
    where = Path((found.submodule_search_locations or [found.origin or ""])[0]).resolve() if found else Path("/")
    return Path.cwd() if Path.cwd() in where.parents and "site-packages" not in where.parts else None


def _outcome(task: Any) -> tuple[int, str]:
    """Return the code of a function's end, and the reason if it died.

    Raises:
        UserError: If no function can run on the nodes.
    """
    try:
        code: int = ray.get(task)
        return code, ""
    except exceptions.TaskCancelledError:
        return LEFT, ""
    except exceptions.OutOfMemoryError:
        return -9, "its node was out of memory"
    except exceptions.RayError as error:
        if "No module named 'lambdaml" in str(error):
            raise UserError(
                "lambdaml is not installed on the nodes of the Ray cluster: pip install 'lambdaml-runtime[ray]' there, "
                "with the same version as here"
            ) from None
        return -1, _line_of(error)


def _line_of(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    # A task's error carries its traceback; its message is at the end of that.
    return lines[-1 if isinstance(error, exceptions.RayTaskError) else 0][:300]
