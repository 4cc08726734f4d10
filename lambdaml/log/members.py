"""Checks the members of a record that was read: nothing in it is trusted before that."""

from __future__ import annotations

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
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise TypeError(f"{name} is {value!r}")
