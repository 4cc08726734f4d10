"""S3, Google Cloud Storage and Azure Blob Storage through obstore (Rust), with its blocking calls.

obstore takes 2-7 times less CPU for a put than boto3, is imported in 0.03 s, and offers conditional puts on three
clouds behind one call. Its asynchronous calls are not used, because they can abort the interpreter at exit.
"""

from __future__ import annotations

import functools
import os
import re
import threading
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, TypeVar

from lambdaml.storage.answers import store_error
from lambdaml.storage.backend import (
    BATCH,
    SMALL_BYTES,
    Backend,
    Page,
    batches,
    check_key,
    check_order,
    check_prefix,
    flat,
    is_key,
)
from lambdaml.storage.connect import Options, connect_azure, connect_google, connect_s3, endpoint_of, find_region
from lambdaml.storage.errors import AccessDenied, StoreError, StoreTimeout, StoreUnavailable
from lambdaml.storage.place import ANSWER_TIMEOUT_S, CONNECT_TIMEOUT_S, S3Place, split_bucket
from lambdaml.storage.protocol import Bytes, Data, ObjectInfo
from lambdaml.storage.url import StoreURL, masked

T = TypeVar("T")

UPLOAD_STEP_BYTES = 64 * 2**20
"""The size of an upload's steps. Each gets two timeouts, because nothing tells whether bytes flow meanwhile."""

SMALL_UPLOAD_BYTES = 2**20
"""The size up to which an upload is given up after one timeout, like a read that receives no byte."""

LONGEST_READ_S = 3600.0

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"(?:<Code>|\(code: )(\w+)")
_REGION = re.compile(r"<Region>([\w-]+)</Region>")
_KIND = re.compile(r"HttpError \{\s*kind: (\w+)")

_runtime_pid: int | None = None


def open_backend(url: StoreURL) -> CloudStore:
    """Open `gs://bucket/prefix?endpoint=` or `az://container/prefix?endpoint=`; `lambdaml.storage.place` reads `s3://`.

    obstore finds credentials in GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_NAME and _KEY, and so on; see
    `lambdaml.storage.connect` for servers on this machine.
    """
    bucket, prefix = split_bucket(url)
    endpoint = endpoint_of(url)
    connect = functools.partial(connect_google if url.scheme == "gs" else connect_azure, bucket, endpoint)
    location = f"{bucket}/{prefix}".rstrip("/")
    own_url = str(StoreURL(url.scheme, location).adding(endpoint=endpoint))
    return CloudStore(f"{url.scheme}://{bucket}", prefix, own_url, connect)


class CloudStore(Backend):
    """A bucket through obstore. Nothing is imported or connected before the first call.

    Objects of every size are one PUT (5 GB at most on S3), because a conditional multipart upload is another request
    with other guarantees.

    Warning:
        obstore hangs for ever in a process that was forked after its parent used it. A forked child therefore gets a
        StoreError instead: start workers with `spawn`, or use `?client=boto3`.

    Args:
        bucket: The bucket as messages name it, such as `s3://bucket`.
        prefix: The prefix of all keys, without slashes at its ends.
        url: The URL that opens the same store in another process.
        connect: A function that makes the obstore store of the whole bucket from obstore's `client_options` and
            from whether objects must be deleted one by one.
        timeout_s: The longest silence of the server, and half the time for each 64 MB of an upload, in seconds.
        sorts: Whether the cloud lists in the order of keys and starts after a given key.
        bulk_deletes: Whether one request may delete many objects. This is tried until the server refuses.
        find_region: A function that asks for the region of the bucket.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str,
        url: str,
        connect: Callable[[Options, bool], Any],
        timeout_s: float = ANSWER_TIMEOUT_S,
        sorts: bool = True,
        bulk_deletes: bool = False,
        find_region: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.bucket = bucket
        self.url = url
        self._base = f"{prefix}/" if prefix else ""
        self._connect = connect
        self._timeout_s = timeout_s
        self._sorts = sorts
        self._lock = threading.Lock()
        self._clients: dict[tuple[int, bool], Any] = {}
        self._bulk_deletes = bulk_deletes
        self._find_region = find_region

    @classmethod
    def s3(cls, place: S3Place, timeout_s: float = ANSWER_TIMEOUT_S) -> CloudStore:
        """Return the store of a bucket of S3, or of a server that speaks its protocol."""
        connect, find = functools.partial(connect_s3, place), functools.partial(find_region, place)
        return cls(f"s3://{place.bucket}", place.prefix, place.url(), connect, timeout_s, place.sorted, True, find)

    def get(self, key: str) -> Bytes | None:
        import obstore

        path = self._base + check_key(key)
        return self._found("get", key, lambda: _buffer(obstore.get(self._client(), path).bytes()))

    def get_range(self, key: str, start: int, length: int) -> Bytes | None:
        import obstore

        path = self._base + check_key(key)
        if length == 0:
            return None if self.head(key) is None else b""
        try:
            return self._found(
                "get_range",
                key,
                lambda: _buffer(obstore.get_range(self._client(), path, start=start, length=length)),
            )
        except _OutOfRange:
            return b""

    def put(self, key: str, data: Data) -> None:
        self._write("put", key, data, "overwrite")

    def try_create(self, key: str, data: Data) -> bool:
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        try:
            self._write("create", key, data, "create")
        except (AlreadyExistsError, PreconditionError):
            return False
        return True

    def head(self, key: str) -> ObjectInfo | None:
        import obstore

        path = self._base + check_key(key)
        found = self._found("head", key, lambda: obstore.head(self._client(), path))
        return None if found is None else ObjectInfo(key, found["size"], found["last_modified"].timestamp())

    def page(self, prefix: str, after: str) -> Page:
        """List and filter the folder of the prefix, because obstore's prefixes are whole folders.

        Where lists are sorted, reading begins just before the prefix and ends beyond it. S3 Express, for one, lists in
        no order: there, all pages are read, sorted and returned as one.
        """
        import obstore

        full, behind = self._base + check_prefix(prefix), self._base + after
        folder = full[: full.rfind("/")] if "/" in full else None
        start = max(behind if is_key(behind) else "", _just_before(full)) if self._sorts else ""

        def read() -> list[ObjectInfo]:
            chunks = obstore.list(self._client(1), folder, offset=start or None, chunk_size=BATCH)
            infos: list[ObjectInfo] = []
            for rows in chunks:
                page = [ObjectInfo(row["path"], row["size"], row["last_modified"].timestamp()) for row in rows]
                if self._sorts:
                    check_order(page, infos[-1].key if infos else start, f"list {self._name(prefix)}")
                infos = page if self._sorts else infos + page
                if self._sorts and infos[-1].key > behind:  # otherwise not even one of them is asked for
                    break
            return sorted(infos, key=lambda info: info.key)

        read_infos = self._found("list", prefix, read) or []
        skip = len(self._base)
        wanted = [
            ObjectInfo(info.key[skip:], info.size_bytes, info.modified)
            for info in read_infos
            if info.key.startswith(full) and info.key[skip:] > after
        ]
        more = self._sorts and len(read_infos) >= BATCH
        last = read_infos[-1].key if more else ""
        passed = last > full and not last.startswith(full)
        return Page(wanted, last[skip:] if more and not passed else None)

    def delete(self, keys: Iterable[str]) -> None:
        for batch in batches(keys):
            paths = [self._base + check_key(key) for key in batch]
            try:
                self._delete(batch[0], paths)
            except FileNotFoundError:  # single deletes may stop at the first key that is not there
                for path in paths:
                    self._found("delete", path, lambda path=path: self._delete(path, [path]))  # type: ignore[misc]

    def _delete(self, key: str, paths: list[str]) -> None:
        """Delete in one request where the server can do that. Once it refuses, delete one by one from then on."""
        import obstore

        if self._bulk_deletes:
            try:
                return self._call("delete", key, lambda: obstore.delete(self._client(), paths))
            except FileNotFoundError:
                self._bulk_deletes = False
            except StoreError as error:
                if type(error) is not StoreError:
                    raise
                self._bulk_deletes = False
        return self._call("delete", key, lambda: obstore.delete(self._client(single_deletes=True), paths))

    def _write(self, verb: str, key: str, data: Data, mode: str) -> None:
        import obstore

        path = self._base + check_key(key)
        data = flat(data)
        client = self._client(1 + len(data) // UPLOAD_STEP_BYTES if len(data) > SMALL_UPLOAD_BYTES else 0)
        put: Any = obstore.put
        try:
            self._call(verb, key, lambda: put(client, path, data, mode=mode, use_multipart=False))
        except FileNotFoundError:
            raise store_error(f"{verb} {self._name(key)}", 404, "NoSuchBucket") from None

    def _found(self, verb: str, key: str, call: Callable[[], T]) -> T | None:
        """Make a call and return its result, or None where the store answers 404 for a key."""
        try:
            return self._call(verb, key, call)
        except FileNotFoundError as error:
            if re.search(r"<Code>(NoSuchBucket|ContainerNotFound)</Code>", str(error)):
                raise store_error(f"{verb} {self._name(key)}", 404, "NoSuchBucket") from None
            return None

    def _call(self, verb: str, key: str, call: Callable[[], T]) -> T:
        """Pass on FileNotFoundError, AlreadyExistsError and PreconditionError, and make a StoreError of all others."""
        from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

        try:
            return call()
        except (AlreadyExistsError, PreconditionError):
            if verb == "create":
                raise
            raise store_error(f"{verb} {self._name(key)}", 409, None) from None
        except BaseError as error:
            raise self._error(f"{verb} {self._name(key)}", verb, str(error)) from None

    def _error(self, what: str, verb: str, text: str) -> Exception:
        status, code, kind = (match[1] if (match := part.search(text)) else None for part in (_STATUS, _CODE, _KIND))
        if verb == "get_range" and (status == "416" or "Wanted range starting at" in text):  # the second is Azure's
            return _OutOfRange(what)
        if status is not None:
            return store_error(what, int(status), code, match[1] if (match := _REGION.search(text)) else None)
        if code is not None:  # the code of one key in the answer to a bulk delete
            return store_error(what, 500 if code == "InternalError" else 400, code)
        if "redirect" in text:  # obstore tells neither the code nor the region
            return store_error(what, 301, code, self._find_region())
        if kind == "Timeout":
            return StoreTimeout(f"{what}: no answer in time")
        if kind is not None:
            return StoreUnavailable(f"{what}: connection failed ({kind})")
        head = text.partition("\n")[0].strip()
        if re.search(r"credential|token request|metadata|Unauthenticated", text, re.IGNORECASE):
            return AccessDenied(f"{what}: cannot get credentials for {self.bucket}")
        return StoreError(f"{what}: {masked(head)[:200]}")

    def _client(self, upload_steps: int = 0, single_deletes: bool = False) -> Any:
        """Return a client for reads and small uploads (0), or for uploads of this many steps of 64 MB, with more time.

        Lists get more time as well, since a server may need some to prepare them.
        """
        global _runtime_pid
        if _runtime_pid != os.getpid():
            if _runtime_pid is not None:
                raise StoreError(
                    f"{self.bucket}: obstore was used before this process was forked and would hang; start workers "
                    "with 'spawn', or add ?client=boto3 to an s3:// URL"
                )
            _runtime_pid = os.getpid()
        kind = (1 << (upload_steps - 1).bit_length() if upload_steps else 0, single_deletes)
        client = self._clients.get(kind)
        if client is None:
            with self._lock:
                client = self._clients.get(kind) or self._new_client(*kind)
                self._clients[kind] = client
        return client

    def _new_client(self, steps: int, single_deletes: bool) -> Any:
        from obstore.exceptions import BaseError

        longest_s = 2 * self._timeout_s * steps if steps else LONGEST_READ_S
        options: dict[str, Any] = {
            "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
            "timeout": timedelta(seconds=longest_s),
        }
        if not steps:
            options["read_timeout"] = timedelta(seconds=self._timeout_s)
        try:
            return self._connect(options, single_deletes)
        except BaseError as error:
            raise self._error(f"open {self.bucket}", "open", str(error)) from None

    def close(self) -> None:
        with self._lock:
            self._clients.clear()

    def _name(self, key: str) -> str:
        return f"{self.bucket}/{self._base}{key}"


class _OutOfRange(Exception):
    """The store answered 416: the range begins beyond the end."""


def _buffer(data: Any) -> Bytes:
    return bytes(data) if len(data) < SMALL_BYTES else memoryview(data)


def _just_before(prefix: str) -> str:
    """Return a short key smaller than each that begins with `prefix`. It is empty for a whole folder."""
    if not prefix or prefix.endswith("/") or ord(prefix[-1]) <= 0x21:
        return ""
    return prefix[:-1] + chr(ord(prefix[-1]) - 1) + "~"
