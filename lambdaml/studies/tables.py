"""Tables of studies: one row for each setting and seed, kept as CSV, and as Parquet if pyarrow is installed.

A row is a frozen dataclass whose fields are whole numbers, numbers, texts, or whole numbers that may be missing.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lambdaml.errors import UserError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Row = TypeVar("_Row", bound="DataclassInstance")

_READ: dict[str, Callable[[str], Any]] = {
    "int": int,
    "int | None": lambda text: int(text) if text else None,
    "float": float,
    "str": str,
}
"""The reader of a value, by the annotation of its field."""


def make_folder(folder: Path) -> None:
    """Make the folder of a table if it does not exist. Raises UserError if that is impossible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from error


def save_rows(folder: Path, name: str, kind: type[_Row], rows: Sequence[_Row]) -> None:
    """Write `<name>.csv` and, if pyarrow is installed, `<name>.parquet`; at any moment, each file is whole.

    Raises:
        UserError: If the folder cannot be written.
    """
    try:
        part = folder / f"{name}.csv.part"
        with open(part, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([field.name for field in fields(kind)])
            writer.writerows(astuple(row) for row in rows)
        os.replace(part, folder / f"{name}.csv")
        _save_parquet(folder, name, kind, rows)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from error


def _save_parquet(folder: Path, name: str, kind: type[_Row], rows: Sequence[_Row]) -> None:
    try:
        from pyarrow import Table, int64, parquet, schema, string
        from pyarrow import float64 as number
    except ImportError:
        return
    kinds = {"int": int64(), "int | None": int64(), "float": number(), "str": string()}
    shape = schema([(field.name, kinds[str(field.type)]) for field in fields(kind)])
    part = folder / f"{name}.parquet.part"
    parquet.write_table(Table.from_pylist([asdict(row) for row in rows], shape), str(part))
    os.replace(part, folder / f"{name}.parquet")


def load_rows(folder: Path, name: str, kind: type[_Row]) -> list[_Row]:
    """Return the rows of a folder's `<name>.csv`, or none if the file does not exist.

    Raises:
        UserError: If the file cannot be read, or is not a table of this kind.
    """
    path = folder / f"{name}.csv"
    if not path.exists():
        return []
    csv.field_size_limit(1_000_000)
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return [
                kind(**{field.name: _READ[str(field.type)](record[field.name]) for field in fields(kind)})
                for record in csv.DictReader(file)
            ]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path} is not a study's table: choose another folder with --out") from None
