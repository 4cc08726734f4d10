"""The arguments of a job's constructor are read as its parameters suggest, checked, and made plain for run.json."""

from __future__ import annotations

import ast
import inspect
import json
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, Union, get_args, get_origin

from lambdaml.errors import JobError, nearest


class Text(str):
    """A value that somebody typed; the parameter that takes it decides its type."""


_NAMES = {bool: "True or False", int: "a whole number", float: "a number", str: "text", type(None): "None"}
_SEQUENCES = (list, tuple, set, frozenset, typing.Sequence)


def fit_arguments(make: Callable[..., Any], args: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Return arguments for `make`, each of the kind that its annotation names, or else its default shows.

    Args:
        make: The class or function that takes them.
        args: The values; those that are `Text` are parsed as JSON or Python literals.
        what: The name of what takes them, for messages.

    Raises:
        JobError: If `make` takes no such argument, or the value is of another kind; the message names it.
    """
    parameters = inspect.signature(make).parameters
    anything = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    positional = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY)
    known = {name: parameter for name, parameter in parameters.items() if parameter.kind not in positional}
    hints = _hints(make)
    fitted = {}
    for name, value in args.items():
        if name not in known and not anything:
            others = nearest(name, known) if known else " (it takes none)"
            raise JobError(f"{what} does not take these arguments: {name!r}{others}")
        kinds = _kinds(hints.get(name), known.get(name))
        fitted[name] = _plain(_fit(value, kinds, f"{what}: argument {name}"), f"{what}: argument {name}")
    return fitted


def _hints(make: Callable[..., Any]) -> dict[str, Any]:
    function = make.__init__ if inspect.isclass(make) else make
    try:
        return typing.get_type_hints(function)
    except Exception:  # an annotation uses names that only a type checker knows
        return {}


def _kinds(hint: Any, parameter: inspect.Parameter | None) -> list[Any]:
    """Return the types and literal values that the parameter takes; an empty list if they are unknown."""
    if hint is None and parameter is not None:
        default = parameter.default
        if default is inspect.Parameter.empty or default is None:
            return []
        if type(default) is int:
            return [int, float]  # `lr=1` does not mean whole numbers alone
        return [type(default)] if isinstance(default, bool | float | str | list | tuple | dict) else []
    return _members(hint)


def _members(hint: Any) -> list[Any]:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return [kind for member in get_args(hint) for kind in (_members(member) or [Any])]
    if origin is Literal:
        return [("literal", value) for value in get_args(hint)]
    if hint is None or hint is Any:
        return []
    return [origin or hint]


def _fit(value: Any, kinds: list[Any], where: str) -> Any:
    if not isinstance(value, Text):
        if _suits(value, kinds):
            return value
        raise JobError(f"{where} must be {_said(kinds)}, not {value!r}")
    text = str(value)
    candidates = [None] if text in ("None", "null") else [] if (read := _read(text)) is None else [read]
    if str in kinds and not (candidates and not isinstance(candidates[0], str) and _suits(candidates[0], kinds)):
        return text
    for candidate in [*candidates, text]:
        if _suits(candidate, kinds):
            return candidate
    raise JobError(f"{where} must be {_said(kinds)}, not {text!r}")


def _read(text: str) -> Any:
    """Parse the text as JSON, as a Python literal or as a ratio of two numbers; return None if it is none of them."""
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        pass
    above, slash, below = text.partition("/")
    try:
        return float(above) / float(below) if slash else None
    except (ValueError, ZeroDivisionError):
        return None


def _suits(value: Any, kinds: list[Any]) -> bool:
    return not kinds or any(_is(value, kind) for kind in kinds)


def _is(value: Any, kind: Any) -> bool:
    if isinstance(kind, tuple):
        return type(value) is type(kind[1]) and bool(value == kind[1])
    if kind is bool:
        return isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind in _SEQUENCES or getattr(kind, "__module__", "") == "collections.abc":
        return isinstance(value, list | tuple | dict | set)
    if kind in (str, dict, type(None)):
        return isinstance(value, kind)
    return True  # other types cannot be checked


def _said(kinds: list[Any]) -> str:
    said = [repr(k[1]) if isinstance(k, tuple) else _NAMES.get(k, f"a {getattr(k, '__name__', k)}") for k in kinds]
    if "a whole number" in said and "a number" in said:
        said.remove("a whole number")
    return " or ".join(said)


def _plain(value: Any, where: str) -> Any:
    """Return the value as it comes back from run.json."""
    if isinstance(value, set | frozenset):
        value = sorted(value)
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        what = "a finite number" if isinstance(value, float) and not math.isfinite(value) else "a plain JSON value"
        raise JobError(f"{where} must be {what}, not {value!r}") from None
    return json.loads(text)
