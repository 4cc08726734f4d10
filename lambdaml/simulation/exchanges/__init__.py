"""Patterns in closed form: what the exchange of updates takes. Each pattern has a file, as in `lambdaml.patterns`.

A pattern for rounds is a `RoundFlow`: it is told when the updates of a round exist, and says when each function has decided
the round. One for logged runs is a `CommitFlow`: it is told when a commit was decided, and says when each function has it.
Both are array operations, a few dozen for a round or a commit. To add a pattern, write a file and add a line below.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from lambdaml.registry import Registry
from lambdaml.simulation.draws import Floats
from lambdaml.simulation.scenario import CatchUp

if TYPE_CHECKING:
    from lambdaml.log.records import Commit
    from lambdaml.simulation.log_readers import Known

READERS = 32
"""The looks of at most this many functions are followed where each looks for as many objects as there are workers."""


class Published(NamedTuple):
    """The updates of a round.

    Attributes:
        begin_s: For each function, the moment at which it had decided the round before.
        core_s: For each function, the moment at which it has computed its last update.
        own_s: For each function, the moment from which it knows that all its updates exist.
        stands_s: For each worker, the moment from which its update can be read.
        known_s: For each worker, the moment from which its function knows that.
        said_s: For each worker, the seconds that its update says its function took from `begin_s` until it existed; None
            in the first round, when no function knows how long a put takes.
    """

    begin_s: Floats
    core_s: Floats
    own_s: Floats
    stands_s: Floats
    known_s: Floats
    said_s: Floats | None


class RoundFlow(Protocol):
    """The exchange in a run of rounds that every function decides by itself."""

    @property
    def updates_added(self) -> int:
        """The number of updates that every function adds up for each optimizer step."""
        ...

    def decided(self, published: Published) -> Floats:
        """Return when each function has all that it needs to decide the round."""
        ...

    def catch_up(self, rounds: int) -> CatchUp:
        """Return what a function does to catch up on so many rounds."""
        ...


class Decided(NamedTuple):
    """A commit that the writer has put into the log.

    Attributes:
        commit: The commit.
        decided_s: The moment at which it was decided.
        visible_s: The moment from which its log entry can be read.
        done_s: The moment at which the writer knows that.
        forecast_s: The seconds until the next commit, as this one forecasts them.
        size_bytes: The bytes of the log entry.
    """

    commit: Commit
    decided_s: float
    visible_s: float
    done_s: float
    forecast_s: float
    size_bytes: float


class Delivered(NamedTuple):
    """A commit on its way to all functions.

    Attributes:
        free_s: The moment at which the writer may decide the next commit.
        visible_s: The moment from which others can read the commit.
        known: The version after it, and when functions had it queued.
    """

    free_s: float
    visible_s: float
    known: Known


class CommitFlow(Protocol):
    """The exchange in a run whose commits one function decides."""

    @property
    def core_s(self) -> Floats:
        """For each function, the moment at which its core will have done all work that it was given. Callers move it."""
        ...

    @property
    def applied_s(self) -> Floats:
        """For each function, the moment at which it has applied the newest commit."""
        ...

    def deliver(self, decided: Decided) -> Delivered:
        """Let all functions get a commit, and apply it."""
        ...

    def version_at(self, function: int, now: float) -> int:
        """Return the version that the function computes from if it begins now."""
        ...

    def catch_up(self, function: int, commits: int, updates: int) -> CatchUp:
        """Return what the function does to catch up on so many commits of so many updates."""
        ...


ROUND_EXCHANGES: Registry[RoundFlow] = Registry(
    "pattern for rounds",
    {
        "gather": f"{__name__}.gather:GatherRounds",
        "scatter": f"{__name__}.scatter:ScatterRounds",
        "tree": f"{__name__}.tree:TreeRounds",
    },
)

COMMITS: Registry[CommitFlow] = Registry(
    "pattern for logged runs",
    {
        "fold": f"{__name__}.fold:FoldCommits",
        "gather": f"{__name__}.gather:GatherCommits",
    },
)
