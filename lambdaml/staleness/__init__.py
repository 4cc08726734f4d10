"""Staleness rules: the weight of an update, given how stale it is. One file each.

A rule sees only what the log holds, so that every replica computes the same weight. To add one: a file with a class
that has the members of `Rule`, and one line in `RULES`.
"""

from __future__ import annotations

from typing import Protocol

from lambdaml.registry import Registry
from lambdaml.view import View


class Rule(Protocol):
    def weight(self, staleness: int, view: View) -> float:
        """What to multiply a gradient with that is `staleness` optimizer steps old. 1 for a fresh one."""


RULES: Registry[Rule] = Registry(
    "staleness rule",
    {
        "constant": "lambdaml.staleness.constant:Constant",
        "inverse": "lambdaml.staleness.inverse:Inverse",
    },
)
