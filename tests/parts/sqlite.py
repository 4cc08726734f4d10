"""The store `sqlite:///path/file.db`: all objects in one file, which the processes of one machine share."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lambdaml.storage.backend import LOCAL_PAGE, Backend, Page, check_key, flat
from lambdaml.storage.errors import StoreUnavailable
from lambdaml.storage.protocol import Bytes, Data, ObjectInfo
from lambdaml.storage.url import StoreURL

WAIT_S = 5.0
"""How long a request waits for another process that writes, before it counts as failed and is made again."""

TABLE = "CREATE TABLE IF NOT EXISTS objects (key TEXT PRIMARY KEY, data BLOB, modified REAL) WITHOUT ROWID"


def open_backend(url: StoreURL) -> SqliteStore:
    """Make the file, if it is not there, and its folder."""
    return SqliteStore(url.location)


class SqliteStore(Backend):
    """Every request is one transaction on a connection of its own, so that threads and forked processes may share it."""

    def __init__(self, path: str) -> None:
        self.path, self.url = path, f"sqlite://{path}"
        self.shared, self.ephemeral, self.near = True, False, True
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self._execute(TABLE)

    def get(self, key: str) -> Bytes | None:
        return self._first("SELECT data FROM objects WHERE key = ?", check_key(key))

    def get_range(self, key: str, start: int, length: int) -> Bytes | None:
        part = "ifnull(substr(data, ?, ?), x'')"  # a part of nothing is NULL
        return self._first(f"SELECT {part} FROM objects WHERE key = ?", start + 1, length, check_key(key))

    def put(self, key: str, data: Data) -> None:
        self._execute("INSERT OR REPLACE INTO objects VALUES (?, ?, ?)", check_key(key), flat(data), time.time())

    def try_create(self, key: str, data: Data) -> bool:
        row = check_key(key), flat(data), time.time()
        return bool(self._execute("INSERT OR IGNORE INTO objects VALUES (?, ?, ?) RETURNING 1", *row))

    def head(self, key: str) -> ObjectInfo | None:
        found = self._execute("SELECT key, length(data), modified FROM objects WHERE key = ?", check_key(key))
        return ObjectInfo(*found[0]) if found else None

    def page(self, prefix: str, after: str) -> Page:
        columns, limit = "SELECT key, length(data), modified FROM objects", f"ORDER BY key LIMIT {LOCAL_PAGE}"
        where = "WHERE key > ? AND substr(key, 1, length(?)) = ?"  # SQLite compares texts by their UTF-8, as S3 does
        infos = [ObjectInfo(*row) for row in self._execute(f"{columns} {where} {limit}", after, prefix, prefix)]
        return Page(infos, infos[-1].key if len(infos) == LOCAL_PAGE else None)

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._execute("DELETE FROM objects WHERE key = ?", check_key(key))

    def _first(self, statement: str, *values: Any) -> Bytes | None:
        found = self._execute(statement, *values)
        return found[0][0] if found else None

    def _execute(self, statement: str, *values: Any) -> list[Any]:
        try:
            connection = sqlite3.connect(self.path, timeout=WAIT_S)
            try:
                with connection:
                    return connection.execute(statement, values).fetchall()
            finally:
                connection.close()
        except sqlite3.OperationalError as error:
            raise StoreUnavailable(f"{self.url}: {error}") from None
