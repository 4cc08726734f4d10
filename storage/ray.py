"""Ray's object store, for a cluster without a bucket: `ray://name/prefix?address=&auth=`.

One named, detached actor on the head node, `KeySpace`, holds the keys of a store and every object below 64 KB. Larger
objects are in Ray's shared memory: the writer puts them there and passes a reference, and the actor makes a copy of its
own, so that the writer may die. A reader gets the reference from the actor and then maps the memory, without a copy if
it is on the same node. Messages to and from the actor contain no bytes of large objects.

Ray deletes an object when the process that made it dies. `ray.put(..., _owner=)`, which could change that, is gone
since Ray 2.56. The price is one more copy in the memory of the head node for each large object, made after the writer
has its answer (a quicker reader waits for it: 2 ms for 1 MB). In return, the death of any process but the actor, and of
any node but the head, loses nothing.

Ray's own transport between its processes does use pickle. Stores write bytes and read bytes: nothing that is stored at
a key is ever unpickled. Anyone who can reach the cluster can run code on it anyway.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from lambdaml.storage.backend import BATCH, Backend, Page, batches, check_key, check_prefix, flat
from lambdaml.storage.errors import BadStoreURL, LambdaMLError, StoreError, StoreTimeout, StoreUnavailable
from lambdaml.storage.keyspace import KeySpace
from lambdaml.storage.protocol import Bytes, Data, ObjectInfo
from lambdaml.storage.url import StoreURL, masked

try:
    import numpy as np
    import ray
    from ray import exceptions as failures
except ImportError as error:
    raise StoreError("ray:// needs Ray: pip install 'lambdaml-runtime[ray]'") from error

T = TypeVar("T")

NAMESPACE = "lambdaml"
"""The Ray namespace of the actors that hold key spaces."""

INLINE_BYTES = 64 * 1024
"""The size up to which objects travel in messages to and from the actor, and live in its memory. Ray itself sends up to
100 KB that way, and larger ones by shared memory: a get of 64 KB takes 1.4 ms in the message, 1.8 ms by reference."""

_TIMEOUT_S = 60.0
"""The seconds that one request may take. The first one waits for the actor to start."""

_LOOK_EVERY_S = 0.02
"""The seconds between looks whether an actor has ended."""

KNOCK_S = 10.0
"""The seconds within which a cluster must accept a connection."""

_WAIT_S = 30.0
"""The seconds after which a longer wait becomes another request, so that the actor forgets waiters that have died."""

WAITERS = 10_000
"""The number of requests that the actor handles at once, waits included. Each is a coroutine."""

AUTH_MODE = "RAY_AUTH_MODE"
"""The environment variable by which Ray decides whether to show and demand tokens."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

_connecting = threading.Lock()
_connected: list[int] = []  # the process that is connected; Ray hangs in its forks
_started: list[str] = []  # addresses of clusters that this process started


def open_backend(url: StoreURL) -> RayStore:
    """Connect to a cluster, or start one on this machine where there is none, and open the store; see `connect`."""
    return RayStore(url)


def connect(address: str | None = None, auth: str | None = None) -> str:
    """Connect this process to Ray, unless it is, and return the address by which other processes can do the same.

    The address defaults to `$RAY_ADDRESS`, and failing that a cluster of this machine's own is started, without
    dashboard, which takes some 8 s. Ray ends it when this process ends, in any way.

    Args:
        address: The `host:port` of the cluster, `auto` for the one that `ray start` started here, or `local` to start
            one.
        auth: The value `token` shows the cluster this user's token (`~/.ray/auth_token`). Clusters that Ray starts by
            itself demand it, and Ray shows it to an explicit address only where `RAY_AUTH_MODE=token`, or this, says
            so.

    Raises:
        BadStoreURL: If the address is that of a Ray Client server, which has no shared memory, or `auth` is unknown.
        StoreError: If there is no cluster, this process is connected to another one, or it was forked from one that was
            connected (Ray does not survive that).
    """
    wanted = address or os.environ.get("RAY_ADDRESS") or "local"
    if "://" in wanted and (address or not ray.is_initialized()):
        raise BadStoreURL(
            f"address={masked(wanted)}: a Ray Client cannot be used; write host:port, as `ray start` shows it"
        )
    if auth not in (None, "token"):
        raise BadStoreURL(f"auth={auth}: only auth=token is known")
    with _connecting:
        if ray.is_initialized() and _connected[:1] not in ([], [os.getpid()]):
            raise _forked()
        if not ray.is_initialized():
            logging.getLogger("ray").setLevel(logging.ERROR)
            if auth:
                _show_token()
            try:
                _knock(wanted)
                ray.init(
                    address=wanted,
                    namespace=NAMESPACE,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    include_dashboard=False if wanted == "local" else None,
                )
            except (OSError, RuntimeError, ValueError, failures.RayError) as error:
                hint = "" if auth else " (a cluster that demands a token: RAY_AUTH_MODE=token, or &auth=token)"
                raise StoreError(f"no Ray at {masked(wanted)}: {_first_line(error)}{hint}") from error
            if wanted == "local":
                _started.append(ray.get_runtime_context().gcs_address)
        _connected[:] = [os.getpid()]
        found: str = ray.get_runtime_context().gcs_address
    if address not in (None, "auto", "local", found) and _places(address).isdisjoint(_places(found)):
        raise StoreError(f"this process is connected to the Ray cluster at {found}, so it cannot use {address}")
    return found


class RayStore(Backend):
    """A store that keeps objects in Ray's shared memory, and their keys in an actor.

    Opening it makes the actor if none has this name; only `drop` and the end of the cluster end it.

    Warning:
        Everything ends with the head node, and with the cluster: `lambdaml copy` saves a run to another store. A
        cluster that this process started ends with it (`ephemeral`). If the actor dies, its objects are lost: calls
        raise StoreError, and opening the store again finds it empty.

    Warning:
        A process forked from one that is connected to Ray cannot use Ray at all, and gets a StoreError that says so.
        Functions of the local engine are forked from a process that is not connected, so they can.

    A `memoryview` maps shared memory, which is not freed before it is garbage-collected. Reading a range of a large
    object brings all of it to this node; further ranges of it cost nothing. Ray spills objects that do not fit into
    memory to disk, except those below 64 KB.
    """

    one_call = True

    def __init__(self, url: StoreURL) -> None:
        name, _, prefix = url.location.partition("/")
        if not _NAME.fullmatch(name):
            raise BadStoreURL(f"bad name {name!r} of a ray:// store: write letters, digits, '.', '_' and '-'")
        self.name = name
        self._at = prefix.strip("/") + "/" if prefix.strip("/") else ""
        check_prefix(self._at)
        address = connect(url.params.get("address"), url.params.get("auth"))
        auth = os.environ.get(AUTH_MODE)
        whole = StoreURL("ray", f"{name}/{self._at}".rstrip("/"), {"address": address})
        self.url = str(whole.adding(auth=auth if auth == "token" else None))
        self.ephemeral = address in _started
        self._pid = os.getpid()
        self._actor = self._ask("open", _actor, name)

    def get(self, key: str) -> Bytes | None:
        (answer,) = self._call("get", key, [self._at + check_key(key)])
        return self._read("get", key, [answer])[0]

    def get_range(self, key: str, start: int, length: int) -> Bytes | None:
        answer = self._call("get_range", key, self._at + check_key(key), start, length)
        if not isinstance(answer, list):
            return self._read("get_range", key, [answer])[0]
        found = self._read("get_range", key, [answer])[0]
        return None if found is None else found[start : start + length]

    def get_many(self, keys: Sequence[str]) -> Sequence[Bytes | None]:
        """Get objects by one request to the actor, and one to Ray for all large objects together."""
        if not keys:
            return []
        answers = self._call("get", keys[0], [self._at + check_key(key) for key in keys])
        return self._read("get", keys[0], answers)

    def put(self, key: str, data: Data) -> None:
        self._call("put", key, self._at + check_key(key), _payload(data))

    def try_create(self, key: str, data: Data) -> bool:
        return bool(self._call("create", key, self._at + check_key(key), _payload(data)))

    def head(self, key: str) -> ObjectInfo | None:
        found = self._call("head", key, self._at + check_key(key))
        return None if found is None else ObjectInfo(key, *found)

    def page(self, prefix: str, after: str) -> Page:
        rows, more = self._call("page", prefix, self._at + check_prefix(prefix), self._at + after, BATCH)
        infos = [ObjectInfo(key[len(self._at) :], size, modified) for key, size, modified in rows]
        return Page(infos, infos[-1].key if more else None)

    def delete(self, keys: Iterable[str]) -> None:
        for batch in batches(keys):
            self._call("delete", batch[0], [self._at + check_key(key) for key in batch])

    def wait(self, key: str, timeout_s: float) -> bool:
        """Wait in the actor, which answers as soon as the key exists; nothing is asked again in between."""
        where = self._at + check_key(key)
        while timeout_s > _WAIT_S:
            if self._call("wait", key, where, _WAIT_S):
                return True
            timeout_s -= _WAIT_S
        return bool(self._call("wait", key, where, max(0.0, timeout_s)))

    def drop(self) -> None:
        """End the actor. Every object of the store is lost, under every prefix, and the name is free again.

        Raises:
            StoreTimeout: If Ray has not freed the name after `_TIMEOUT_S`.
        """
        self._ask("drop", ray.kill, self._actor)
        end = time.monotonic() + _TIMEOUT_S
        while self._ask("drop", _exists, self.name):  # until then, opening the store again finds the old actor
            if time.monotonic() > end:
                raise StoreTimeout(f"drop: the actor of ray://{self.name} did not end within {_TIMEOUT_S:.0f} s")
            time.sleep(_LOOK_EVERY_S)

    def _call(self, method: str, key: str, *args: Any) -> Any:
        what = f"{method} {key}"
        return self._ask(what, lambda: ray.get(getattr(self._actor, method).remote(*args), timeout=_TIMEOUT_S))

    def _read(self, method: str, key: str, answers: Sequence[Any]) -> list[Bytes | None]:
        refs = [answer[0] for answer in answers if isinstance(answer, list)]
        arrays = iter(self._ask(f"{method} {key}", ray.get, refs, timeout=_TIMEOUT_S) if refs else ())
        return [memoryview(next(arrays)).toreadonly() if isinstance(a, list) else a for a in answers]

    def _ask(self, what: str, call: Callable[..., T], *args: Any, **options: Any) -> T:
        if os.getpid() != self._pid:
            raise _forked()
        if not ray.is_initialized():  # otherwise Ray would start a cluster by itself
            raise StoreError(f"{what}: this process is no longer connected to Ray; open the store again")
        try:
            return call(*args, **options)
        except failures.RayError as error:
            raise self._error(what, error) from error
        except Exception as error:
            if type(error) is not Exception:
                raise
            # Ray raises a bare one for an actor that an earlier connection of this process knew.
            raise StoreError(f"{what}: {_first_line(error)}; open the store again") from error

    def _error(self, what: str, error: Exception) -> LambdaMLError:
        """Return the error for one of Ray's. Errors inside the actor arrive as subclasses of what was raised there."""
        why = f"{what}: {type(error).__name__}: {_first_line(error)}"
        if isinstance(error, failures.ActorDiedError):
            return StoreError(
                f"{what}: the actor that held the keys of ray://{self.name} is gone, and its objects with it; "
                f"start the run again ({_first_line(error)})"
            )
        if isinstance(error, (failures.ObjectStoreFullError, failures.OutOfDiskError)):
            return StoreError(f"{why}; give the head node more room (`ray start --object-store-memory`)")
        if isinstance(error, failures.GetTimeoutError):
            return StoreTimeout(f"{what}: the actor of ray://{self.name} did not answer within {_TIMEOUT_S:.0f} s")
        return StoreUnavailable(why)


def _knock(address: str) -> None:
    """Raise OSError at once where nothing listens; Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), KNOCK_S).close()


def _places(address: str) -> set[tuple[str, str]]:
    """Return each (ip, port) that `host:port` stands for. Ray calls a node by its ip, users by a name or 127.0.0.1."""
    host, _, port = address.rpartition(":")
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host.strip("[]"), None)}
    except OSError:
        found = {host}
    if found & {"127.0.0.1", "::1"}:
        found.add(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
    return {(ip, port) for ip in found}


def _show_token() -> None:
    """Make Ray show this user's token. The variable counts only until Ray is imported, so Ray must be told."""
    with contextlib.suppress(ImportError):  # before 2.5x there were no tokens
        from ray._private.authentication import authentication_token_setup

        authentication_token_setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def _actor(name: str) -> Any:
    """Return the store's actor, which is made on the head node if there is none. It takes no CPU from functions."""
    return (
        ray.remote(KeySpace)
        .options(
            name=f"store:{name}",
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            resources={"node:__internal_head__": 0.001},
            max_concurrency=WAITERS,
            max_restarts=0,  # a new one would be empty, and nobody would know
            max_task_retries=0,  # `Retrying` repeats
        )
        .remote(ray.put)
    )


def _exists(name: str) -> bool:
    """Return whether Ray knows an actor of the store that has not ended."""
    try:
        ray.get_actor(f"store:{name}", NAMESPACE)
    except ValueError:
        return False
    return True


def _payload(data: Data) -> Any:
    """Return the data as the actor gets it. Ray copies it before the call returns, so a caller may reuse its buffer."""
    whole = flat(data)
    return bytes(whole) if len(whole) <= INLINE_BYTES else np.frombuffer(whole, np.uint8)


def _forked() -> StoreError:
    return StoreError(
        "this process was forked from one that is connected to Ray, which Ray does not survive: start it by spawn, or "
        "fork it from a process that is not connected, and open the store there by its url"
    )


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
