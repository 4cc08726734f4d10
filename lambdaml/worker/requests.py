"""The requests that functions make of the store, as data: a script of requests for each thing that they do.

    count_requests(START, function=8, worker=16)      # Counter(create=16, get=16, list=16, put=8, head=8)

A test holds the code of functions to these scripts. The simulator in closed form, plans, caps and the table in
docs/concepts/cost.md count with them. A script has the requests that are always made. Looks that come too early and
requests that are refused are not in it, since their number depends on time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from lambdaml.log import keys
from lambdaml.log.bracket import Bracket
from lambdaml.registry import Registry

if TYPE_CHECKING:
    from lambdaml.schedules.grouping import RoundGroups

Per = Literal[
    "function",
    "worker",
    "update",
    "read",
    "slice read",
    "header",
    "sum",
    "sum read",
    "commit",
    "entry read",
    "snapshot",
    "run",
]
"""The unit for which a request is made once. A `read` is an update and a function other than its own that reads it whole;
a `slice read` is the same for a slice of an update. A `header` is a worker and a log entry that a function without this worker
writes. A `sum` is an object that stands for several updates: a node of a
tree, a piece of a scattered sum, or a folded model; a `sum read` is one and a function that reads it. An `entry read` is a
log entry and a function that does not write the log."""


class Request(NamedTuple):
    """A request of a script.

    Attributes:
        kind: The kind of request, as a meter names it.
        about: The prefix of the key, or the whole key.
        per: The unit for which the request is made once.
    """

    kind: str
    about: str
    per: Per


Script = tuple[Request, ...]

START: Script = (
    Request("get", keys.RUN, "function"),
    Request("put", keys.TRACE, "function"),
    Request("head", keys.TRACE, "function"),
    Request("list", keys.SNAPSHOTS, "function"),
    Request("get", keys.SNAPSHOTS, "function"),
    Request("list", keys.LOG, "function"),
    Request("create", keys.LEASES, "worker"),
)
"""The requests of a function that starts. It makes them one after the other, except for the leases, which it takes all
at once."""

SUCCEED: Script = (
    Request("list", keys.LEASES, "worker"),
    Request("get", keys.LEASES, "worker"),
    Request("get_miss", keys.UPDATES, "worker"),
    Request("list", keys.HORIZONS, "worker"),
)
"""The further requests of a function that takes the place of another. For each worker it looks for the lease, for
updates that the worker published after the snapshot until one does not exist, and whether that one was deleted."""

LEAVE: Script = (
    Request("put", keys.TRACE, "function"),
    Request("create", keys.LEASES, "worker"),
)
"""The requests of a function that leaves before the run has ended: the last part of its trace, and the leases that it
gives back."""

REMEMBER: Script = (Request("create", keys.MEMORY, "worker"),)
"""The request that writes a worker's memory. In a run with memory, a function that leaves makes it besides."""

RECALL: Script = (Request("get", keys.MEMORY, "worker"),)
"""The request that reads a worker's memory. In a run with memory, a function that takes the place of one that left makes
it besides."""

AGREED: Script = (
    Request("create", keys.UPDATES, "update"),
    Request("get", keys.UPDATES, "read"),
    Request("create", keys.LOG, "commit"),
)
"""The requests for updates and the commits that give them their fate, if every function decides these by itself."""

LOGGED: Script = (*AGREED, Request("get", keys.LOG, "entry read"))
"""The requests for updates and their commits, if one function decides and the others read its log."""

SUMMED: Script = (
    *AGREED,
    Request("create", keys.REDUCED, "sum"),
    Request("get", keys.REDUCED, "sum read"),
)
"""The requests for updates and their commits, if some functions add up or fold updates, and the others read the sums."""

SCATTERED: Script = (
    Request("create", keys.UPDATES, "update"),
    Request("get_range", keys.UPDATES, "slice read"),
    Request("create", keys.REDUCED, "sum"),
    Request("get", keys.REDUCED, "sum read"),
    Request("create", keys.LOG, "commit"),
)
"""The requests for updates and their commits, if each slice of the updates is added up by one function."""

GROUPED: Script = (*LOGGED, Request("get_range", keys.UPDATES, "header"))
"""The requests for the rounds of a log entry, if workers average models of their own in groups. A `read` is an update here and
a function that averages it and did not make it. A snapshot takes a read of every worker's update besides."""

SNAPSHOT: Script = (Request("create", keys.SNAPSHOTS, "snapshot"),)
"""The request that writes a snapshot."""

END: Script = (
    Request("put", keys.TRACE, "function"),
    Request("create", keys.MODEL, "run"),
)
"""The requests at the end of a run: each function's last part of the trace, and the result."""

SCRIPTS: dict[str, Script] = {
    "a function starts": START,
    "it takes the place of another, besides": SUCCEED,
    "it leaves": LEAVE,
    "it leaves a run with memory, besides": REMEMBER,
    "it takes the place of one that left such a run, besides": RECALL,
    "updates and their commits, agreed (`gather`)": AGREED,
    "updates and their commits, logged (`gather`)": LOGGED,
    "updates and their commits, added up or folded (`tree`, `fold`)": SUMMED,
    "updates and their commits, in slices (`scatter`)": SCATTERED,
    "updates and their commits, in groups (`groups`)": GROUPED,
    "a snapshot": SNAPSHOT,
    "the end": END,
}
"""All scripts, by what they are for."""


def count_requests(script: Iterable[Request], **units: float) -> Counter[str]:
    """Return the number of requests by kind, for these numbers of functions, workers, updates ... (`entry_read` for
    `entry read`). A unit that is not named counts as 0."""
    counts: Counter[str] = Counter()
    for kind, _, per in script:
        counts[kind] += units.get(per.replace(" ", "_"), 0)  # type: ignore[assignment]
    return +counts


class Exchanged(NamedTuple):
    """The requests for some updates and the commit that gives them their fate.

    Attributes:
        script: The script.
        units: The number of each of its units.
    """

    script: Script
    units: dict[str, int]


def exchanged(pattern: str, workers: int, functions: int, updates: int | None = None) -> Exchanged:
    """Return the requests for one commit.

    Args:
        pattern: The pattern, with its parameters.
        workers: The number of workers. Function f holds workers f, f + F, f + 2F ...
        functions: The number of functions.
        updates: The number of updates of a commit that one function decides; the writer of the log has its share of
            them. By default the commit is a round of all workers, which every function makes.

    Raises:
        SettingsError: If there is no such pattern, or it does not take the parameters.
    """
    return EXCHANGES.make(pattern, {"workers": workers, "functions": functions, "updates": updates})


def gathered(workers: int, functions: int, updates: int | None) -> Exchanged:
    """Return the requests of `gather`: every function reads the others' updates."""
    made = workers if updates is None else updates
    units = {"update": made, "read": made * (functions - 1), "commit": 1}
    if updates is None:
        return Exchanged(AGREED, units)
    return Exchanged(LOGGED, {**units, "entry_read": functions - 1})


def in_tree(workers: int, functions: int, updates: int | None, fan_in: int) -> Exchanged:
    """Return the requests of `tree`: a node is made by the holder of its first worker, who reads the others' children."""
    read, sums, sums_read = 0, 0, functions - 1
    children = np.arange(workers) % functions  # the functions that make them
    for level in range(1, Bracket.tree(fan_in, workers).levels + 1):
        firsts = np.arange(0, workers, fan_in**level) % functions
        others = int((children != np.repeat(firsts, fan_in)[: len(children)]).sum())
        read, sums_read = (others, sums_read) if level == 1 else (read, sums_read + others)
        sums, children = sums + len(firsts), firsts
    return Exchanged(SUMMED, {"update": workers, "read": read, "sum": sums, "sum_read": sums_read, "commit": 1})


def scattered(workers: int, functions: int, updates: int | None, slices: int = 0) -> Exchanged:
    """Return the requests of `scatter`: a slice is added up by one function, and every function reads the sums of all."""
    count = slices or workers
    reducers = np.arange(count) * workers // count % functions
    held = np.bincount(np.arange(workers) % functions, minlength=functions)
    read = int((workers - held[reducers]).sum())
    units = {"update": workers, "slice_read": read, "sum": count, "sum_read": count * (functions - 1), "commit": 1}
    return Exchanged(SCATTERED, units)


def folded(workers: int, functions: int, updates: int | None) -> Exchanged:
    """Return the requests of `fold`: the writer of the log reads the others' updates, and they read its model."""
    made = workers if updates is None else updates
    read = round(made * (1 - -(-workers // functions) / workers))
    return Exchanged(SUMMED, {"update": made, "read": read, "sum": 1, "sum_read": functions - 1, "commit": 1})


EXCHANGES: Registry[Exchanged] = Registry(
    "pattern",
    {
        "fold": f"{__name__}:folded",
        "gather": f"{__name__}:gathered",
        "scatter": f"{__name__}:scattered",
        "tree": f"{__name__}:in_tree",
    },
)
"""What each pattern asks of the store for a commit."""


def grouped(grouping: RoundGroups, workers: int, functions: int, turns: Sequence[int]) -> Exchanged:
    """Return the requests for a log entry of some rounds, in a run whose workers average models in groups.

    Args:
        grouping: The groups of each round.
        workers, functions: The numbers of workers and of functions, as for `exchanged`.
        turns: The rounds.
    """
    read = 0
    for group in (group for turn in turns for group in grouping.of(turn)):
        held = Counter(worker % functions for worker in group)
        read += sum(len(group) - count for count in held.values())
    units = {"update": workers * len(turns), "read": read, "commit": 1, "entry_read": functions - 1}
    return Exchanged(GROUPED, {**units, "header": workers - -(-workers // functions)})


def table() -> str:
    """Return the scripts as a Markdown table."""
    lines = ["| what | requests |", "|---|---|"]
    for what, script in SCRIPTS.items():
        asked = ", ".join(f"{kind} `{about}` per {per}" for kind, about, per in script)
        lines.append(f"| {what} | {asked} |")
    return "\n".join(lines)
