"""The bracket of a run says how the sum of a step's updates is bracketed. Every pattern adds up in this bracket.

A sum of floats depends on its bracket. So run.json fixes it, and the state has the same bits whichever functions added
which partial sums. `flat` adds all updates in the order of their workers. `G` first adds the updates of each group of G
workers (0 .. G - 1, G .. 2G - 1, ...) and then the sums of the groups in order, and `G^M` does so M times.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bracket:
    """A bracket.

    Attributes:
        group: The number of workers, or of groups of the level below, in a group.
        levels: The number of levels of groups; 0 for a flat sum.
    """

    group: int = 1
    levels: int = 0

    @staticmethod
    def parse(text: str) -> Bracket:
        """Parse `flat`, `8` or `8^2`.

        Raises:
            ValueError: If it is none of these.
        """
        match = re.fullmatch(r"flat|(\d+)(?:\^(\d+))?", text.strip())
        if match is None:
            raise ValueError(f"a bracket is 'flat', or groups such as '8' or '8^2' (it is {text!r})")
        group, levels = int(match[1] or 1), int(match[2] or bool(match[1]))
        if levels and (group < 2 or levels > 64):
            raise ValueError(f"a bracket has groups of 2 or more, on at most 64 levels (it is {text!r})")
        return Bracket(group, levels) if levels else Bracket()

    @staticmethod
    def tree(group: int, workers: int) -> Bracket:
        """Return the bracket with the least number of levels at which all workers are in one group."""
        levels = 1
        while group**levels < workers:
            levels += 1
        return Bracket(group, levels)

    def path(self, worker: int) -> tuple[int, ...]:
        """Return the number of the worker's group on each level, the lowest first."""
        return tuple(worker // self.group**level for level in range(1, self.levels + 1))

    def __str__(self) -> str:
        return "flat" if not self.levels else f"{self.group}" + (f"^{self.levels}" if self.levels > 1 else "")
