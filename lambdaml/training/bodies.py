"""The body of an update holds what the codec wrote, and beside it rows, buffers and the list of absent parameters. If it
covers one fragment of the model, it says which.

If the update is a sum of gradients, the buffers are those after each of these: `b3` after the first, `b3.1` after the
second, and so on.
"""

from __future__ import annotations

import re

from lambdaml.log.records import Body
from lambdaml.training.flat import ABSENT
from lambdaml.training.rows import FRAGMENT

_REST = re.compile(rf"[bd]\d+(\.[1-9]\d*)?|{ABSENT}")
_ROWS = re.compile(rf"r\d+|{FRAGMENT}")


def split_body(body: Body) -> tuple[Body, Body, Body]:
    """Split a body into what the codec wrote, the fragment and the rows that this covers, and the rest: the buffers, and the list of
    absent parameters."""
    rest = {name: array for name, array in body.items() if _REST.fullmatch(name)}
    rows = {name: array for name, array in body.items() if _ROWS.fullmatch(name)}
    return {name: array for name, array in body.items() if name not in rest and name not in rows}, rows, rest


def buffer_name(name: str, number: int) -> str:
    """Return the name that a buffer has in an update, after the gradient of this number in its sum."""
    return f"{name}.{number}" if number else name


def split_buffers(rest: Body, summands: int) -> list[Body]:
    """Return the buffers after each of the gradients that an update is the sum of. A number that it does not have stays in
    the name, so that the check of the first ones finds it."""
    parts: list[Body] = [{} for _ in range(summands)]
    for name, array in rest.items():
        plain, _, number = name.partition(".")
        known = int(number or 0) < summands
        parts[int(number or 0) if known else 0][plain if known else name] = array
    return parts
