"""What functions ask of the store, as data: each thing that they do, with the requests that it always takes.

    count_requests(START, function=8, worker=16)      # Counter(create=16, get=16, list=16, put=8, head=8)

A test holds the code of functions to these scripts. The simulator in closed form, plans, caps and the table in
docs/concepts/cost.md count with them. Looks that come too early and requests that are refused come on top: they are a
matter of time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Literal, NamedTuple

from lambdaml.log import keys

Per = Literal["function", "worker", "update", "read", "commit", "entry read", "snapshot", "run"]
"""What a request is made once for. `read`: an update and a function other than its own; `entry read`: a log entry and a
function that does not write the log."""


class Request(NamedTuple):
    """A request of a script: its kind, as a meter names it; what its key begins with, and what it is made once for."""

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
"""A function starts. It makes these one after the other, but for the leases, which it takes at once."""

SUCCEED: Script = (
    Request("list", keys.LEASES, "worker"),
    Request("get", keys.LEASES, "worker"),
    Request("get_miss", keys.UPDATES, "worker"),
    Request("list", keys.HORIZONS, "worker"),
)
"""What a function that takes the place of another makes besides: it looks for each worker's lease, for updates which that
worker published after the snapshot, until there is none, and whether that one was deleted."""

LEAVE: Script = (
    Request("put", keys.TRACE, "function"),
    Request("create", keys.LEASES, "worker"),
)
"""A function leaves before the run has ended: the last part of its trace, and the leases that it gives back."""

AGREED: Script = (
    Request("create", keys.UPDATES, "update"),
    Request("get", keys.UPDATES, "read"),
    Request("create", keys.LOG, "commit"),
)
"""Updates and the commits that give them their fate, where every function decides these by itself."""

LOGGED: Script = (*AGREED, Request("get", keys.LOG, "entry read"))
"""The same where one function decides, and the others read its log."""

SNAPSHOT: Script = (Request("create", keys.SNAPSHOTS, "snapshot"),)
"""A snapshot is written."""

END: Script = (
    Request("put", keys.TRACE, "function"),
    Request("create", keys.MODEL, "run"),
)
"""A run ends: each function's last part of the trace, and the result."""

SCRIPTS: dict[str, Script] = {
    "a function starts": START,
    "it takes the place of another, besides": SUCCEED,
    "it leaves": LEAVE,
    "updates and their commits, agreed": AGREED,
    "updates and their commits, logged": LOGGED,
    "a snapshot": SNAPSHOT,
    "the end": END,
}
"""All of them, by what they are for."""


def count_requests(script: Iterable[Request], **units: float) -> Counter[str]:
    """Requests by kind, of so many functions, workers, updates ... (`entry_read` for `entry read`); of none of those
    that are not named."""
    counts: Counter[str] = Counter()
    for kind, _, per in script:
        counts[kind] += units.get(per.replace(" ", "_"), 0)  # type: ignore[assignment]
    return +counts


def table() -> str:
    """The scripts as a table of Markdown."""
    lines = ["| what | requests |", "|---|---|"]
    for what, script in SCRIPTS.items():
        asked = ", ".join(f"{kind} `{about}` per {per}" for kind, about, per in script)
        lines.append(f"| {what} | {asked} |")
    return "\n".join(lines)
