"""Checks the members of a record that was read: nothing in it is trusted before that."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def known(kind: type[T], record: Mapping[str, Any]) -> T:
    """Return a record of this kind. It ignores other members, which a later version of the same schema added."""
    if not isinstance(record, Mapping):
        raise TypeError(f"{record!r} is no record")
    return kind(**{name: value for name, value in record.items() if name in kind.__dataclass_fields__})  # type: ignore[attr-defined]


def demand_type(record: object, kind: type, *names: str) -> None:
    """Raise TypeError unless these attributes are of this kind. An int may replace a float, but a bool is no number."""
    kinds = (int, float) if kind is float else (kind,)
    for name in names:
        value = getattr(record, name)
        if type(value) not in kinds:
            raise TypeError(f"{name} is {value!r}")


def read_labels(counts: Any) -> tuple[int, ...]:
    """Return the numbers of samples of each class that a record holds, and none if it is empty.

    Raises:
        TypeError, ValueError: If it holds something else.
    """
    if not isinstance(counts, list) or any(type(count) is not int or count < 0 for count in counts):
        raise TypeError(f"labels are {counts!r}")
    return tuple(counts)


def read_batches(batches: Any) -> tuple[int, int] | None:
    """Return the first of an update's batches and their number, if a record holds them.

    Raises:
        TypeError, ValueError: If it holds something else.
    """
    if batches is None:
        return None
    first, count = read_labels(batches)
    if not count:
        raise ValueError("an update of no batches")
    return first, count


def read_residuals(record: Any) -> tuple[float, ...]:
    """Return the two residuals that a record holds, and none if it is empty.

    Raises:
        TypeError, ValueError: If it holds something else.
    """
    numbers = record if isinstance(record, list) and len(record) in (0, 2) else [math.nan]
    if not all(isinstance(number, float) and 0 <= number < math.inf for number in numbers):
        raise TypeError(f"residuals are {record!r}")
    return tuple(numbers)


def read_judged(record: Any) -> tuple[int, int] | None:
    """Return how many answers of a travelling model were right, and of how many, from the header of an update.

    Raises:
        ValueError: If it says something impossible.
    """
    if record is None:
        return None
    right, judged = record
    if not (type(right) is int and type(judged) is int and 0 <= right <= judged and judged):
        raise ValueError(f"judged {record!r}")
    return right, judged
