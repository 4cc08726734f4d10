"""The interface of backends and of layers around them: single requests, each of which is exactly one round trip.

A `Store` promises more than one request can give: `create` has to settle lost answers, and `list` has to walk pages.
Both are written here once, on top of the single requests. A layer that counts, delays or breaks requests therefore sees
every one of them, including the read-back that settles a create.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import islice, pairwise
from typing import Literal, NamedTuple, TypeVar

from lambdaml.storage.blocking import blocking, run_now
from lambdaml.storage.errors import StoreUnavailable, StoreUnfit, Throttled
from lambdaml.storage.protocol import Bytes, Data, ObjectInfo, Store

BATCH = 1000
"""The number of keys in one page of a list from a cloud, and in one delete request. These are S3's limits."""

LOCAL_PAGE = 10_000
"""The number of keys in one page of a list where a page costs no request over a network."""

SMALL_BYTES = 64 * 1024
"""Objects below this size are read as `bytes`, larger ones as a `memoryview` where that saves a copy."""

_BLOCK = 2**20

Op = Literal["get", "get_range", "put", "create", "head", "list", "delete", "wait"]
"""The name of a kind of request."""

WRITES: frozenset[Op] = frozenset({"put", "create", "delete"})

T = TypeVar("T")

_BAD_KEY = re.compile(r"^$|^/|/$|//|(?:^|/)\.\.?(?:/|$)|^\.tmp(?:/|$)|[\x00-\x1f\x7f\\]")


def check_key(key: str) -> str:
    """Return the key, if every backend can hold it.

    Raises:
        ValueError: If the key is empty or absolute, contains an empty, `.` or `..` segment, a control character or a
            backslash (which Azure, for one, treats as a slash), or begins with the reserved segment `.tmp`.
    """
    if not is_key(key):
        raise ValueError(
            f"bad key {key!r}: keys are relative, without backslashes and empty, '.' or '..' segments, and never under .tmp/"
        )
    return key


def is_key(key: str) -> bool:
    """Return whether `check_key` accepts the key."""
    return not _BAD_KEY.search(key)


def check_prefix(prefix: str) -> str:
    """Return the prefix, if keys can begin with it. Its folders are checked as keys are. Raises ValueError."""
    folder = prefix[: prefix.rfind("/") + 1]
    if folder:
        check_key(folder[:-1])
    return prefix


def flat(data: Data) -> Data:
    """Return `data` as something whose `len` is its size in bytes. Raises TypeError where it is not contiguous."""
    return data.cast("B") if isinstance(data, memoryview) and (data.format != "B" or data.ndim != 1) else data


class Page(NamedTuple):
    """The answer to one list request.

    Attributes:
        infos: The objects, in the order of their keys.
        resume: The key after which to continue, or None at the end of the list.
    """

    infos: Sequence[ObjectInfo]
    resume: str | None


class Backend(Store):
    """A store that is implemented by single requests.

    Besides the methods of `Store` that are one request anyway, a backend implements `try_create` and `page`.

    Attributes:
        one_call: Whether `get_many` and `wait` are one request each, rather than made of gets and heads. A layer that
            slows or breaks single requests hides this; a layer that counts or repeats them does not.
    """

    one_call: bool = False

    @abstractmethod
    def try_create(self, key: str, data: Data) -> bool:
        """Make one conditional put; True means that it wrote, False that the store says the key exists.

        Raises `StoreUnavailable` where the answer was lost; the object may or may not have been written. False may be
        untrue as well: a client also says it after losing an answer and retrying by itself, or after a 409.
        """

    @abstractmethod
    def page(self, prefix: str, after: str) -> Page:
        """Return the first objects of `list`. This is one request, which may find none and still not be the last."""

    def create(self, key: str, data: Data) -> Bytes | None:
        """Create an object if its key is free; see `Store.create` and `settle`.

        Creating an object a second time with equal bytes counts as success, because a retry looks the same.

        Raises:
            StoreUnavailable: If it could not be settled. `create` may be called again with the same bytes, and will
                recognise its own object if the lost request took effect after all.
        """
        return run_now(settle(key, data, blocking(self.try_create), blocking(self.get)))

    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        resume: str | None = after
        while resume is not None:
            infos, resume = self.page(prefix, resume)
            yield from infos


def check_order(infos: Sequence[ObjectInfo], after: str, place: str) -> None:
    """Refuse a page of a list that is not in the order of keys, or begins before the key it should begin after.

    Raises:
        StoreUnfit: If the page is out of order. To continue after its last key would lose objects.
    """
    keys = [after, *(info.key for info in infos)]
    if any(left >= right for left, right in pairwise(keys)):
        raise StoreUnfit(f"{place}: the server does not list in the order of keys; add sorted=no to the URL")


class Around(Store):
    """A store around another one, which behaves like that one in everything that a subclass does not change."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.url = inner.url
        self.shared = inner.shared
        self.ephemeral = inner.ephemeral
        self.near = inner.near

    def free_bytes(self) -> int | None:
        return self.inner.free_bytes()

    def close(self) -> None:
        self.inner.close()


class Layer(Around, Backend):
    """A backend around a backend. A subclass defines in `around` what happens to each request."""

    inner: Backend

    @abstractmethod
    def around(self, op: Op, key: str, sent_bytes: int, call: Callable[[], T]) -> T:
        """Make one request, which `call()` sends. `key` is the prefix for a list and the first key for a delete."""

    def get(self, key: str) -> Bytes | None:
        return self.around("get", key, 0, lambda: self.inner.get(key))

    def get_range(self, key: str, start: int, length: int) -> Bytes | None:
        return self.around("get_range", key, 0, lambda: self.inner.get_range(key, start, length))

    def put(self, key: str, data: Data) -> None:
        return self.around("put", key, size_bytes(data), lambda: self.inner.put(key, data))

    def try_create(self, key: str, data: Data) -> bool:
        return self.around("create", key, size_bytes(data), lambda: self.inner.try_create(key, data))

    def head(self, key: str) -> ObjectInfo | None:
        return self.around("head", key, 0, lambda: self.inner.head(key))

    def page(self, prefix: str, after: str) -> Page:
        return self.around("list", prefix, 0, lambda: self.inner.page(prefix, after))

    def delete(self, keys: Iterable[str]) -> None:
        for batch in batches(keys):
            self.around("delete", batch[0], 0, lambda batch=batch: self.inner.delete(batch))  # type: ignore[misc]


async def settle(
    key: str,
    data: Data,
    create: Callable[[str, Data], Awaitable[bool]],
    get: Callable[[str], Awaitable[Bytes | None]],
) -> Bytes | None:
    """Create an object and settle who wrote it, for blocking and awaited stores alike; see `Store.create`.

    Args:
        create: The function that makes the one conditional put, as `Backend.try_create` does.
        get: The function that reads an object.
    """
    doubt: StoreUnavailable | None = None
    try:
        if await create(key, data):
            return None
    except Throttled:
        raise
    except StoreUnavailable as error:
        doubt = error
    found = await get(key)
    if found is None:
        raise doubt or StoreUnavailable(f"create {key}: the store said that the key exists, but does not return it")
    return None if _same(found, data) else found


def size_bytes(data: Data) -> int:
    """Return the number of bytes that will be written."""
    return data.nbytes if isinstance(data, memoryview) else len(data)


def batches(keys: Iterable[str]) -> Iterator[list[str]]:
    """Yield the keys in lists of at most `BATCH` keys."""
    rest = iter(keys)
    while batch := list(islice(rest, BATCH)):
        yield batch


def _same(found: Bytes, data: Data) -> bool:
    """Compare block by block, because a memoryview compares slowly and a copy of all of it may be large."""
    if len(found) != size_bytes(data):
        return False
    left, right = memoryview(found), memoryview(flat(data))
    starts = range(0, len(left), _BLOCK)
    return all(bytes(left[start : start + _BLOCK]) == bytes(right[start : start + _BLOCK]) for start in starts)
