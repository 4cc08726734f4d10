"""The body of an update holds what the codec wrote, and beside it rows, buffers and the list of absent parameters."""

from __future__ import annotations

import re

from lambdaml.log.records import Body
from lambdaml.training.flat import ABSENT

_REST = re.compile(rf"[bd]\d+|{ABSENT}")
_ROWS = re.compile(r"r\d+")


def split_body(body: Body) -> tuple[Body, Body, Body]:
    """Split a body into what the codec wrote, the rows that this covers, and the rest: the buffers, and the list of
    absent parameters."""
    rest = {name: array for name, array in body.items() if _REST.fullmatch(name)}
    rows = {name: array for name, array in body.items() if _ROWS.fullmatch(name)}
    return {name: array for name, array in body.items() if name not in rest and name not in rows}, rows, rest
