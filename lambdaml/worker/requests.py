"""The requests that functions make of the store, as data: a script of requests for each thing that they do.

    count_requests(START, function=8, worker=16)      # Counter(create=16, get=16, list=16, put=8, head=8)

A test holds the code of functions to these scripts. The simulator in closed form, plans, caps and the table in
docs/concepts/cost.md count with them. A script has the requests that are always made. Looks that come too early and
requests that are refused are not in it, since their number depends on time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Literal, NamedTuple

from lambdaml.log import keys

Per = Literal["function", "worker", "update", "read", "commit", "entry read", "snapshot", "run"]
"""The unit for which a request is made once. A `read` is an update and a function other than its own; an `entry read`
is a log entry and a function that does not write the log."""


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
    "updates and their commits, agreed": AGREED,
    "updates and their commits, logged": LOGGED,
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


def table() -> str:
    """Return the scripts as a Markdown table."""
    lines = ["| what | requests |", "|---|---|"]
    for what, script in SCRIPTS.items():
        asked = ", ".join(f"{kind} `{about}` per {per}" for kind, about, per in script)
        lines.append(f"| {what} | {asked} |")
    return "\n".join(lines)
