"""Functions as Ray tasks, on one machine or on a cluster.

Ray finds room for tasks; leases alone restart work, so that Ray never does (`max_retries=0`). A function that found
room asks at the *desk*, one small actor beside the caller, which workers to work as. So none are dealt to functions
that still wait for room, and nodes that come later get their share. Events go to the desk a few times a second, and
the answer says whether to leave. A function on a node that Ray drains (a spot instance that was given notice) leaves.

The job's file travels with its folder, as the `working_dir` of Ray's runtime environment; lambdaml itself must be
installed on the nodes.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import itertools
import logging
import math
import os
import secrets
import sys
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from lambdaml.engines import Emit, Launch
from lambdaml.engines.supervise import DONE, ENVIRONMENT, FAILED, LEFT, ONE_CORE, Event, error_event, supervise
from lambdaml.errors import LambdaMLError, RunFailed, UserError
from lambdaml.worlds.live import OneThread

try:
    import ray
    from ray import exceptions
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ImportError:
    raise UserError("engine 'ray' needs Ray: pip install 'lambdaml-runtime[ray]'") from None

SEND_S = 0.25
"""Seconds between a function's messages to the desk."""

TICK_S = 0.25
"""Seconds after which the engine looks for functions that died without a word."""

GRACE_S = 5.0
"""Seconds that functions which have found room wait for others to come, before workers are dealt."""

DRAIN_S = 5.0
"""Seconds between a function's looks whether its node is being drained."""

LOOK_S = 30.0
"""Seconds that a look at other nodes may take."""

REPORT_WAIT_S = 10.0
"""Seconds without room for any function, after which that is reported."""


class RayEngine:
    """Runs each function as a Ray task.

    Args:
        address: `auto`, `host:port`, `ray://host:10001`, or `local` for a Ray of our own that ends with the engine.
            By default the Ray that this process is connected to, else `RAY_ADDRESS`, else `local`.
        cpus: that each function takes up.
        gpus: the same; with any, functions compute on `cuda`.
    """

    def __init__(self, address: str = "", cpus: float = 1.0, gpus: float = 0.0) -> None:
        if cpus < 0 or gpus < 0:
            raise ValueError("cpus and gpus must be 0 or more")
        self._address = address
        self._needs = {"num_cpus": cpus, "num_gpus": gpus}
        self._compute = OneThread()
        self._ours = False
        self._alone = False

    @property
    def compute(self) -> OneThread:
        return self._compute

    def start(self) -> None:
        """Connect to Ray, or start one. Not in the background: a `ray://` store needs it at once.

        Raises:
            UserError: there is no Ray at the address.
        """
        if ray.is_initialized():
            return
        address = self._address or os.environ.get("RAY_ADDRESS") or "local"
        self._alone = address == "local"
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else Ray warns of a change to come
        if self._alone:
            quiet |= {"include_dashboard": False}
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            ray.init(address, **quiet)
        except (ConnectionError, ValueError, RuntimeError, ImportError) as error:
            raise UserError(f"cannot reach Ray at {address}: {_first_line(error)}") from None
        self._ours = True

    def run(self, launch: Launch, emit: Emit) -> None:
        self.start()
        try:
            if launch.store.url.startswith("file:"):
                check_shared(launch.store.url)
            crew = _Crew(launch, self._needs, self._environment(launch))
            try:
                supervise(crew, launch.functions, emit)
            finally:
                crew.close()
        except exceptions.RayError as error:
            raise _plain(error) from None

    def _environment(self, launch: Launch) -> dict[str, Any]:
        """What a function finds where it runs: the job's folder, unless this machine is all there is, or the caller's
        own Ray job ships one."""
        environment: dict[str, Any] = {"env_vars": {**ENVIRONMENT, **ONE_CORE}}
        folder = None if self._alone else job_folder(launch.settings.job.spec)
        if folder is None or ray.get_runtime_context().runtime_env.get("working_dir"):
            return environment
        from ray._private.runtime_env.working_dir import upload_working_dir_if_needed

        try:
            shipped = upload_working_dir_if_needed(
                {"working_dir": str(folder), "excludes": ["__pycache__"]}, include_gitignore=True
            )
        except Exception as error:
            raise UserError(
                f"{folder} cannot be sent to Ray's nodes: {_first_line(error)}; move the job to a folder of its own"
            ) from None
        return environment | {"working_dir": shipped["working_dir"]}

    def close(self) -> None:
        if self._ours:
            self._ours = False
            ray.shutdown()
        self._compute.shutdown(wait=True)


class _Crew:
    """The functions of one run, the desk where they are met, and who works as which workers."""

    def __init__(self, launch: Launch, needs: dict[str, float], environment: dict[str, Any]) -> None:
        self._launch = launch
        self._needs = needs
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        self._desk: Any = (
            ray.remote(Desk).options(num_cpus=0, max_concurrency=100_000, scheduling_strategy=here).remote()
        )
        self._function = ray.remote(_function).options(
            **needs, max_retries=0, runtime_env=environment, name="lambdaml", scheduling_strategy="SPREAD"
        )
        self._dealer = Dealer(launch.settings.workers, min(launch.functions, _room(needs)))
        self._token = secrets.token_hex(4)
        self._count = itertools.count(1)
        self._tasks: dict[Any, str] = {}
        self._met: set[str] = set()
        self._dead: Sequence[str] = ()
        self._leaving = self._over = False
        self._idle_since = self._reported = time.monotonic()

    def start(self, index: int, dead: Sequence[str]) -> str:
        name = f"ray-{self._token}.{next(self._count)}"
        self._dead = dead
        self._tasks[self._function.remote(name, self._launch.store.url, self._desk)] = name
        return name

    def leave(self) -> None:
        self._leaving = True
        self._desk.close.remote()
        for task, name in self._tasks.items():
            if name not in self._met:
                ray.cancel(task)

    def events(self) -> Iterator[Event]:
        while self._tasks:
            # Looked at first: whatever these said before they ended is at the desk by now.
            ended, _ = ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=0)
            for event in ray.get(self._desk.take.remote(0.0 if ended else TICK_S)):
                yield self._note(event)
            for task in ended:
                yield self._end(task)
            yield from self._check_room()
            if not self._leaving:
                self._deal()

    def _note(self, event: Event) -> Event:
        if event["event"] == "started":
            self._met.add(event["function"])
            self._dealer.arrive(event["function"], time.monotonic())
        elif event["event"] == "takeover":
            self._dealer.move(event["worker"], event["function"])
        return event

    def _end(self, task: Any) -> Event:
        name = self._tasks.pop(task)
        self._met.discard(name)
        self._dealer.end(name, time.monotonic())
        code, reason = _outcome(task)
        if code == DONE and not self._over:
            self._over = True
            self.leave()
        if code == LEFT and self._over:  # nobody need go on for him
            code = DONE
        return {"event": "ended", "function": name, "code": code, **({"reason": reason} if reason else {})}

    def _deal(self) -> None:
        orders, leave = self._dealer.deal(time.monotonic())
        if leave:
            self._desk.dismiss.remote(leave)
        if not orders:
            return
        launch = self._launch
        common = {
            "dead": list(self._dead),
            "device": "auto" if self._needs["num_gpus"] else launch.device,
            "lifetime_s": launch.lifetime_s,
        }
        self._desk.order.remote({name: common | {"assigned": workers} for name, workers in orders.items()})

    def _check_room(self) -> Iterator[Event]:
        """Say so when Ray has no room for any function.

        Raises:
            RunFailed: it had none for the run's patience.
        """
        now = time.monotonic()
        if self._met:
            self._idle_since = now
        waited_s = now - self._idle_since
        needs = " and ".join(f"{count:g} {kind[4:].upper()}" for kind, count in self._needs.items() if count)
        if waited_s > self._launch.settings.patience_s:
            raise RunFailed(
                f"Ray has found no room for a function ({needs or 'no CPU'}) for {waited_s:.0f} s: ask for less or add "
                "nodes, then resume the run"
            )
        if waited_s > REPORT_WAIT_S and now - self._reported > REPORT_WAIT_S:
            self._reported = now
            yield {"event": "room", "needs": needs, "seconds": round(waited_s, 1)}

    def close(self) -> None:
        """End what is left, if anything is, and the desk."""
        for task in self._tasks:
            with contextlib.suppress(exceptions.RayError):
                ray.cancel(task, force=True)
        ray.kill(self._desk)


class Dealer:
    """Deals workers to functions that begin whenever there is room.

    Workers that nobody has are dealt among those who wait, once all have come that are expected, or after a while. When
    there are none, functions that have more than their share are asked to leave; their workers come back, and so do
    they, as functions that wait. When workers stay free because nobody comes (a node died, and there is no other), the
    function that has the fewest is asked to leave, so that its successor takes both.

    Args:
        expected: functions that will begin soon.
    """

    def __init__(self, workers: int, expected: int) -> None:
        self._workers = workers
        self._expected = expected
        self._held: dict[str, list[int]] = {}
        self._waiting: list[str] = []
        self._asked: set[str] = set()
        self._since = math.inf

    def arrive(self, name: str, now: float) -> None:
        """A function begins, and waits."""
        if not self._waiting:
            self._since = now
        self._waiting.append(name)

    def move(self, worker: int, name: str) -> None:
        """A function took the worker over, by its lease."""
        for held in self._held.values():
            if worker in held:
                held.remove(worker)
        self._held.setdefault(name, []).append(worker)

    def end(self, name: str, now: float) -> None:
        """A function ended; another is on its way."""
        self._held.pop(name, None)
        self._asked.discard(name)
        if name in self._waiting:
            self._waiting.remove(name)
        if not self._waiting:
            self._expected += 1
            self._since = now

    def deal(self, now: float) -> tuple[dict[str, list[int]], list[str]]:
        """Who is to work as which workers from now on, and who is to leave."""
        held = {worker for mine in self._held.values() for worker in mine}
        free = [worker for worker in range(self._workers) if worker not in held]
        waited = now >= self._since + GRACE_S
        if free and self._waiting and (waited or len(self._waiting) >= self._expected):
            count = min(len(free), len(self._waiting))
            orders = {name: free[number::count] for number, name in enumerate(self._waiting[:count])}
            self._held |= orders
            del self._waiting[:count]
            self._expected = 0
            return orders, []
        leave: list[str] = []
        if self._waiting and waited and not free:
            share = math.ceil(self._workers / (len(self._held) + len(self._waiting)))
            leave = [name for name, mine in self._held.items() if len(mine) > share and name not in self._asked]
        elif free and self._held and not self._waiting and not self._asked and now >= self._since + 2 * GRACE_S:
            leave = [min(self._held, key=lambda name: len(self._held[name]))]
        if leave:
            self._asked.update(leave)
            self._expected = len(self._waiting) + len(leave)
            self._since = now
        return {}, leave


class Desk:
    """Where the functions of a run and their engine meet: an actor of Ray."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._news = asyncio.Event()
        self._orders: dict[str, asyncio.Future[Event | None]] = {}
        self._dismissed: set[str] = set()
        self._closed = False

    async def hello(self, name: str, **facts: Any) -> Event | None:
        """A function begins; returns what it is to do, or None when it is not wanted any more."""
        await self.post(name, [{"event": "started", "function": name, **facts}])
        order = self._orders[name] = asyncio.get_running_loop().create_future()
        if self._closed:
            order.set_result(None)
        return await order

    async def post(self, name: str, events: list[Event]) -> bool:
        """What a function has to say; returns whether it is to leave."""
        if events:
            self._events += events
            self._news.set()
        return self._closed or name in self._dismissed

    async def take(self, timeout_s: float) -> list[Event]:
        """What functions said, as soon as there is something."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), timeout_s)
            await asyncio.sleep(min(0.1, timeout_s))  # more may come
        self._news.clear()
        events, self._events = self._events, []
        return events

    async def order(self, orders: dict[str, Event]) -> None:
        """Let functions that wait begin."""
        for name, order in orders.items():
            if not self._orders[name].done():
                self._orders[name].set_result(order)

    async def dismiss(self, names: Collection[str]) -> None:
        """Ask functions to leave."""
        self._dismissed.update(names)

    async def close(self) -> None:
        """Ask all to leave, and send away those who wait and those who come."""
        self._closed = True
        for order in self._orders.values():
            if not order.done():
                order.set_result(None)


class _Line:
    """A function's line to the desk, in a thread: a call from a task's main thread that waits gives up its CPU."""

    def __init__(self, desk: Any, name: str) -> None:
        self.leaving = False
        self._desk = desk
        self._name = name
        self._node = ray.get_runtime_context().get_node_id()
        self._order: Future[Event | None] = Future()
        self._events: list[Event] = []
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._talk, name="line", daemon=True)
        self._thread.start()

    def order(self) -> Event | None:
        """Wait for what to do."""
        return self._order.result()

    def emit(self, event: Event) -> None:
        with self._lock:
            self._events.append(event)

    def close(self) -> None:
        """Send what is left."""
        self._closed.set()
        self._thread.join()

    def _talk(self) -> None:
        try:
            self._order.set_result(ray.get(self._desk.hello.remote(self._name, pid=os.getpid(), node=self._node)))
            looked = time.monotonic()
            while not self._closed.wait(SEND_S):
                self._send()
                if time.monotonic() - looked > DRAIN_S:
                    looked = time.monotonic()
                    self.leaving |= self._node in _draining()
            self._send()
        except exceptions.RayError:  # nobody is at the desk any more
            self.leaving = True
            if not self._order.done():
                self._order.set_result(None)

    def _send(self) -> None:
        with self._lock:
            events, self._events = self._events, []
        if ray.get(self._desk.post.remote(self._name, events)):
            self.leaving = True


def _function(name: str, url: str, desk: Any) -> int:
    """The body of the task; returns the code of its end."""
    from lambdaml.engines.forkserver import warm_up
    from lambdaml.entry import FUNCTION

    line = _Line(desk, name)
    try:
        warm_up()
        order = line.order()
        if order is None:
            return LEFT
        os.environ[FUNCTION] = name
        outcome = _work(url, name, line, **order)
    except Exception as error:
        line.emit(error_event(name, error))
        return FAILED
    finally:
        os.environ.pop(FUNCTION, None)  # Ray uses the process again
        line.close()
    return DONE if outcome == "done" else LEFT


def _work(url: str, name: str, line: _Line, assigned: list[int], **options: Any) -> str:
    """As `lambdaml.entry.run_function`, with the job's file wherever it lies here."""
    from lambdaml.entry import SWITCH_S, function_coroutine, load_run_job, read_settings
    from lambdaml.storage import open_store

    sys.setswitchinterval(SWITCH_S)
    store = open_store(url)
    compute = OneThread()
    try:
        settings = read_settings(store)
        here = settings.job.model_copy(update={"spec": local_spec(settings.job.spec, settings.job.fingerprint)})
        job = load_run_job(settings.model_copy(update={"job": here}))
        return asyncio.run(
            function_coroutine(
                store,
                settings,
                job,
                name,
                assigned,
                compute,
                emit=lambda event: line.emit({"function": name, **event}),
                leaving=lambda: line.leaving,
                **options,
            )
        )
    finally:
        compute.shutdown(wait=True)
        store.close()


def job_folder(spec: str) -> Path | None:
    """The folder that holds what a job's code imports from beside it; None if it is installed."""
    module = spec.partition(":")[0]
    if module.endswith(".py"):
        return Path(module).resolve().parent
    found = importlib.util.find_spec(module.partition(".")[0])
    where = Path((found.submodule_search_locations or [found.origin or ""])[0]).resolve() if found else None
    if where is None or "site-packages" in where.parts or Path.cwd() not in where.parents:
        return None
    return Path.cwd()


def local_spec(spec: str, wanted: str) -> str:
    """The spec with the job's file where it lies on this machine: at its path, or below the working folder."""
    from lambdaml.job import fingerprint

    path, colon, name = spec.partition(":")
    if not path.endswith(".py"):
        return spec
    parts = Path(path).parts
    for place in [Path(path), *(Path.cwd().joinpath(*parts[first:]) for first in range(1, len(parts)))]:
        if place.is_file() and (not wanted or fingerprint(str(place)) == wanted):
            return f"{place}{colon}{name}"
    return spec


def check_shared(url: str) -> None:
    """Have every other node look for the run at a `file://` URL.

    Raises:
        UserError: one does not see it.
    """
    from ray.util.client import ray as client

    mine = None if client.is_connected() else ray.get_runtime_context().get_node_id()
    nodes = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != mine]
    looks = {
        ray.remote(_sees)
        .options(
            num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        )
        .remote(url): node["NodeManagerAddress"]
        for node in nodes
    }
    looked, _ = ray.wait(list(looks), num_returns=len(looks), timeout=LOOK_S) if looks else ([], [])
    for look in looked:
        if not ray.get(look):
            raise UserError(
                f"{url} is not shared: the Ray node {looks[look]} does not see it. Use a bucket (s3://, gs://, az://), "
                "a ray:// store, or a folder that all nodes mount"
            )


def _sees(url: str) -> bool:
    from lambdaml import keys
    from lambdaml.storage import open_store

    store = open_store(url)
    try:
        return store.head(keys.RUN) is not None
    finally:
        store.close()


def _room(needs: dict[str, float]) -> int:
    """How many functions Ray has room for, about."""
    available = ray.available_resources()
    kinds = {"CPU": needs["num_cpus"], "GPU": needs["num_gpus"]}
    return max(1, min((int(available.get(kind, 0) // count) for kind, count in kinds.items() if count), default=10**6))


def _draining() -> Collection[str]:
    """Nodes that Ray was told to free, for instance because their instance was given notice."""
    try:
        nodes: dict[str, int] = ray._private.state.state.get_draining_nodes()
        return nodes
    except Exception:  # no public interface: an older Ray may not have it
        return ()


def _outcome(task: Any) -> tuple[int, str]:
    """The code of a function's end, and the reason if it died.

    Raises:
        LambdaMLError: functions cannot run here at all.
    """
    try:
        code: int = ray.get(task)
        return code, ""
    except exceptions.TaskCancelledError:
        return LEFT, ""
    except (exceptions.RayTaskError, exceptions.RuntimeEnvSetupError) as error:
        raise _plain(error) from None
    except exceptions.OutOfMemoryError:
        return -9, "Ray ended it, since its node was out of memory"
    except exceptions.RayError as error:
        return -1, _first_line(error)


def _plain(error: exceptions.RayError) -> LambdaMLError:
    if "No module named 'lambdaml" in str(error):
        return UserError(
            "lambdaml is not installed on the nodes of the Ray cluster: pip install 'lambdaml-runtime[ray]' there, with "
            "the same version as here"
        )
    return RunFailed(f"Ray: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # A task's error carries its traceback; what it says stands at the end of that.
    line = lines[-1] if lines and isinstance(error, exceptions.RayTaskError) else (lines or [type(error).__name__])[0]
    return line[:300]
