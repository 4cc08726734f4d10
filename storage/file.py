"""The directory store, where one object is one file: the default on one machine, with nothing to install or start.

An object is written to a temporary file beside the data and then gets its name in one step: by `link`, which fails
where the name is taken, for create-only, and by `rename` for overwriting. Readers therefore see whole objects only,
exactly one of many creators wins, and both hold between processes. Measured (docs of `lambdaml.storage`): 64 KB created
in 0.15 ms.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import secrets
import shutil
import stat
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from itertools import count, islice
from pathlib import Path

from lambdaml.storage.backend import LOCAL_PAGE, SMALL_BYTES, Backend, Page, check_key, check_prefix, flat
from lambdaml.storage.errors import StoreError, StoreFull
from lambdaml.storage.protocol import Bytes, Data, ObjectInfo
from lambdaml.storage.url import StoreURL

_GONE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


def open_backend(url: StoreURL) -> DirectoryStore:
    """Open `file:///absolute`, `file://./relative`, or a plain path."""
    return DirectoryStore(urllib.parse.unquote(url.location) if url.scheme else url.location)


class DirectoryStore(Backend):
    """A store that keeps objects as files under `root`, which is made at the first write.

    Warning:
        Nothing is synced to the disk: objects survive the death of any process, but not a loss of power.

    Warning:
        Unlike in a bucket, a key cannot be a folder of another: `a` and `a/b` exclude each other (StoreError).

    Objects of 64 KB and more are read as a view of the mapped file, which holds a file descriptor until it is
    garbage-collected. Temporary files live in `root/.tmp`, which is never listed; a killed process may leave one there.
    """

    near = True

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.path.abspath(os.path.expanduser(root))
        self.url = "file://" + urllib.parse.quote(self.root)
        self._base = self.root.rstrip("/") + "/"
        self._token = secrets.token_hex(4)
        self._serial = count()

    def get(self, key: str) -> Bytes | None:
        return self._read(key, 0, None)

    def get_range(self, key: str, start: int, length: int) -> Bytes | None:
        return self._read(key, start, length)

    def put(self, key: str, data: Data) -> None:
        path = self._base + check_key(key)
        temporary = self._write(flat(data))
        try:
            self._name(os.replace, temporary, path)
        except OSError as error:
            _remove(temporary)
            raise _failed("put", key, error) from error

    def try_create(self, key: str, data: Data) -> bool:
        path = self._base + check_key(key)
        temporary = self._write(flat(data))
        try:
            self._name(os.link, temporary, path)
        except FileExistsError as error:
            if os.path.isdir(path):
                raise StoreError(
                    f"create {key}: it is a folder of other keys, which a directory cannot hold"
                ) from error
            return False
        except OSError as error:
            raise _failed("create", key, error) from error
        finally:
            _remove(temporary)
        return True

    def head(self, key: str) -> ObjectInfo | None:
        try:
            found = os.stat(self._base + check_key(key))
        except _GONE:
            return None
        return ObjectInfo(key, found.st_size, found.st_mtime) if stat.S_ISREG(found.st_mode) else None

    def page(self, prefix: str, after: str) -> Page:
        folder = check_prefix(prefix)[: prefix.rfind("/") + 1]
        infos = list(islice(self._walk(folder, prefix, after), LOCAL_PAGE))
        return Page(infos, infos[-1].key if len(infos) == LOCAL_PAGE else None)

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            try:
                os.unlink(self._base + check_key(key))
            except _GONE:
                pass
            except OSError as error:
                raise _failed("delete", key, error) from error

    def free_bytes(self) -> int:
        place = Path(self.root)
        while not place.exists():
            place = place.parent
        return shutil.disk_usage(place).free

    def _read(self, key: str, start: int, length: int | None) -> Bytes | None:
        try:
            fd = os.open(self._base + check_key(key), os.O_RDONLY | os.O_CLOEXEC)
        except _GONE:
            return None
        except OSError as error:
            raise _failed("get", key, error) from error
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                return None
            size = max(0, found.st_size - start)
            if length is not None:
                size = min(size, length)
            if size < SMALL_BYTES:
                return os.pread(fd, size, start)
            return memoryview(mmap.mmap(fd, found.st_size, access=mmap.ACCESS_READ))[start : start + size]
        finally:
            os.close(fd)

    def _write(self, data: Data) -> str:
        path = f"{self._base}.tmp/{self._token}-{os.getpid()}-{next(self._serial)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            try:
                fd = os.open(path, flags, 0o666)
            except FileNotFoundError:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                fd = os.open(path, flags, 0o666)
            try:
                written = os.write(fd, data)
                while written < len(data):
                    written += os.write(fd, memoryview(data)[written:])
            except BaseException:
                _remove(path)
                raise
            finally:
                os.close(fd)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StoreFull(
                    f"there is no room for more under {self.root}: free some, or delete history with 'lambdaml gc', and resume"
                ) from error
            raise StoreError(f"cannot write under {self.root}: {error.strerror}") from error
        return path

    @staticmethod
    def _name(step: Callable[[str, str], None], temporary: str, path: str) -> None:
        try:
            step(temporary, path)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            step(temporary, path)

    def _walk(self, folder: str, prefix: str, after: str) -> Iterator[ObjectInfo]:
        """Walk a folder in key order. A folder sorts as its name with `/`, so `a-b` comes before `a/b`."""
        try:
            with os.scandir(self._base + folder) as entries:
                found = sorted((folder + e.name + ("/" if e.is_dir() else ""), e) for e in entries)  # names are unique
        except _GONE:
            return
        for name, entry in found:
            if not name.startswith(prefix) or name == ".tmp/":
                continue
            if name.endswith("/"):
                if after[: len(name)] <= name:
                    yield from self._walk(name, prefix, after)
            elif name > after:
                try:
                    info = entry.stat()
                except FileNotFoundError:
                    continue
                yield ObjectInfo(name, info.st_size, info.st_mtime)


def _remove(temporary: str) -> None:
    with contextlib.suppress(FileNotFoundError):  # somebody may delete the whole folder
        os.unlink(temporary)


def _failed(verb: str, key: str, error: OSError) -> StoreError:
    return StoreError(f"{verb} {key}: {error.strerror or error}")
