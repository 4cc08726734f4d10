"""Registries make schedules, codecs and staleness rules from a name and parameters, such as `quorum:3,late=weight`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Container, Mapping
from functools import cache
from importlib import import_module
from typing import Any, Generic, TypeVar

from lambdaml.errors import SettingsError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """Maps names to factories, one line each. A factory's own signature says what it takes; annotations are `int`,
    `float` or `str`, and the module is imported when the name is used.

    Args:
        kind: The kind of thing that is registered, for messages: "schedule".
        factories: The place of each factory by its name: `{"quorum": "lambdaml.schedules.quorum:Quorum"}`.
    """

    def __init__(self, kind: str, factories: Mapping[str, str]) -> None:
        self.kind = kind
        self.factories = dict(factories)

    def variants(self, *context: Any) -> list[str]:
        """Return specs worth trying: those that a part's module gives in `variants(*context)`, or its name if it needs
        no parameters."""
        specs: list[str] = []
        for name, where in self.factories.items():
            module, _, attribute = where.partition(":")
            loaded = import_module(module)
            if hasattr(loaded, "variants"):
                specs += loaded.variants(*context)
            elif all(
                p.default is not p.empty for p in inspect.signature(getattr(loaded, attribute)).parameters.values()
            ):
                specs.append(name)
        return specs

    def make(self, spec: str, options: Mapping[str, Any] | None = None) -> T:
        """Build what `name`, `name:3` or `name:3,option=value` says; `options` are values for more of its parameters.

        A value may be a spec itself, as in `name:3,outer=other:0.7,0.9,option=value`: one that contains a colon goes
        on until a piece begins with the name of one of this factory's parameters and `=`.

        Raises:
            SettingsError: If there is no such name (the message shows the nearest), or it does not take the parameters.
        """
        name, _, text = spec.partition(":")
        if name not in self.factories:
            raise SettingsError(f"there is no {self.kind} {name!r}{nearest(name, self.factories)}")
        module, _, attribute = self.factories[name].partition(":")
        factory: Callable[..., T] = getattr(import_module(module), attribute)
        parameters, options = _parameters(factory), options or {}
        known = {parameter.name: parameter for parameter in parameters if parameter.name not in options}
        arguments: dict[str, Any] = {}
        for position, piece in enumerate(_pieces(text, known)):
            key, equals, value = piece.partition("=")
            if not equals:
                key, value = list(known)[position] if position < len(known) else "", piece
            if key not in known or not value:
                takes = ", ".join(known) or "no parameters"
                raise SettingsError(f"{self.kind} {spec!r}: {name} takes {takes}, not {piece!r}")
            if key in arguments:
                raise SettingsError(f"{self.kind} {spec!r}: {key} is given twice")
            try:
                arguments[key] = known[key].annotation(value)
            except ValueError:
                kind = known[key].annotation.__name__
                raise SettingsError(f"{self.kind} {spec!r}: {key} must be of type {kind}, not {value!r}") from None
        for key, value in options.items():
            if key not in [parameter.name for parameter in parameters]:
                raise SettingsError(f"{self.kind} {name!r} takes no option {key!r}")
            arguments[key] = value
        missing = [p for p in parameters if p.default is p.empty and p.name not in arguments]
        if missing:
            example = "3" if missing[0].annotation is int else "0.5"
            raise SettingsError(f"{self.kind} {spec!r} needs {missing[0].name}, as in '{name}:{example}'")
        try:
            return factory(**arguments)
        except ValueError as error:
            raise SettingsError(f"{self.kind} {spec!r}: {error}") from None


def _pieces(text: str, known: Container[str]) -> list[str]:
    """Return the pieces between the commas, where a named value that contains a colon keeps its own commas."""
    pieces: list[str] = []
    nested = False
    for piece in text.split(",") if text else []:
        key, equals, value = piece.partition("=")
        named = bool(equals) and key in known
        if nested and not named:
            pieces[-1] += f",{piece}"
        else:
            pieces.append(piece)
            nested = named and ":" in value
    return pieces


@cache
def _parameters(factory: Callable[..., Any]) -> tuple[inspect.Parameter, ...]:
    return tuple(inspect.signature(factory, eval_str=True).parameters.values())
