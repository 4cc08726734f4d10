"""The log state: what the log says so far, in numbers. It is the part of a replica that needs no tensors."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from lambdaml.errors import BadObject
from lambdaml.log.left_out import LEFT_OUT
from lambdaml.log.records import DAMAGED, LOST_MEMORY, Commit, Stop
from lambdaml.log.tuned import DERIVED, Tuned

RECENT = 20_000
"""Rejections are remembered for this many updates."""

KNOWN_FATES = 2
"""The fates of this many of each worker's latest updates are known. No schedule lets a worker have more updates
pending."""

UNREADABLE = -1.0
"""This stands in the place of the weight of an update whose object is damaged."""

_DUMPED = (
    *("commit", "version", "samples", "next_seq", "weights", "generation", "rejected", "rejections"),
    *("staleness", "labels", "controls", "changed", "stop"),
)
"""The attributes that a snapshot's metadata holds, in their order there."""


class LogState:
    """The state of a run after commits 0 .. `commit` - 1. It is a pure function of them.

    Attributes:
        workers: The number of workers, N.
        steps: The length of the run, in updates that each worker publishes or, if the schedule counts those, commits.
        commit: The number of the next log entry.
        version: The number of optimizer steps taken.
        samples: The number of samples in the applied updates, and of those that clients would have used that were left out.
        next_seq: For each worker, the number of its updates that have a fate, which is also the sequence number of the
            next one to get a fate.
        weights: For each worker, the weights that the staleness rule gave its latest decided updates, the newest last;
            0 for an update that was refused, and `UNREADABLE` for one that was refused because its object is damaged.
        generation: For each worker, the highest fencing token seen.
        rejected: The number of updates with the fate "rejected".
        rejections: The `progress` at which each recently rejected update got its fate; none is older than `RECENT`.
        staleness: The number of applied updates for each staleness in steps.
        labels: The sums of the applied updates' label counts, by class; empty unless the staleness rule asks for them.
        residuals: The primal and the dual residual of the consensus that the latest commit's updates were computed from, as
            the root of the mean square over workers; empty if they know none.
        controls: The number of control entries so far that were asked for.
        changed: The present value of each setting that a control entry changed.
        tuned: The account of what was sent since the latest decision of the run's tuner, and of what that knows; None if
            there is no tuner.
        stop: The reason why the run ended, or None while it goes on.
    """

    __slots__ = (
        *("changed", "commit", "controls", "next_seq", "generation", "labels", "rejected", "rejections"),
        *("residuals", "samples", "staleness", "steps", "stop", "tuned", "version", "weights", "workers"),
    )

    def __init__(self, workers: int, steps: int) -> None:
        self.workers = workers
        self.steps = steps
        self.commit = 0
        self.version = 0
        self.samples = 0
        self.next_seq = [0] * workers
        self.weights: list[tuple[float, ...]] = [(0.0,) * KNOWN_FATES] * workers
        self.generation = [0] * workers
        self.rejected = 0
        self.rejections: list[int] = []
        self.staleness: dict[int, int] = {}
        self.labels: list[int] = []
        self.residuals: tuple[float, ...] = ()
        self.controls = 0
        self.changed: dict[str, Any] = {}
        self.tuned: Tuned | None = None
        self.stop: Stop | None = None

    @property
    def progress(self) -> int:
        """The number of updates with a fate, over all workers."""
        return sum(self.next_seq)

    def advance(self, commit: Commit) -> None:
        """Advance by the next commit.

        Raises:
            BadObject: If it is not the next one, or gives an update a fate out of turn or twice.
        """
        if (commit.commit, commit.version) != (self.commit, self.version) or self.stop:
            raise BadObject(
                f"log entry {commit.commit} from version {commit.version} does not follow "
                f"commit {self.commit} at version {self.version}"
            )
        next_seq, entries = list(self.next_seq), sorted(commit.entries, key=lambda entry: (entry.worker, entry.seq))
        for worker, seq in [(entry.worker, entry.seq) for entry in entries]:
            if not 0 <= worker < self.workers:
                raise BadObject(f"log entry {commit.commit} names worker {worker} of {self.workers}")
            if seq != next_seq[worker]:
                raise BadObject(
                    f"log entry {commit.commit} decides update {seq} of worker {worker}, but {next_seq[worker]} is next"
                )
            next_seq[worker] += 1
        self.next_seq = next_seq
        for entry in entries:
            weight = UNREADABLE if (entry.fate, entry.reason) == ("rejected", DAMAGED) else entry.weight
            self.weights[entry.worker] = (*self.weights[entry.worker][1:], weight)
            self.generation[entry.worker] = max(self.generation[entry.worker], entry.generation)
            if entry.fate == "rejected":
                self.rejected += 1
                self.rejections.append(self.progress)  # all updates of this commit are the newest
        oldest = self.progress - RECENT
        self.rejections = [place for place in self.rejections if place > oldest]
        self.samples += sum(entry.samples for entry in commit.refused if entry.reason == LEFT_OUT)
        for entry in commit.applied:
            self.samples += entry.samples
            self.staleness[entry.staleness] = self.staleness.get(entry.staleness, 0) + 1
            if entry.labels:
                self._count(entry.labels)
        known = [entry.residuals for entry in commit.applied if entry.residuals]
        if known:
            self.residuals = tuple(math.sqrt(sum(one * one for one in each) / len(known)) for each in zip(*known))
        for control in commit.controls:
            if control.number not in (self.controls, DERIVED):
                raise BadObject(f"log entry {commit.commit} holds control entry {control.number}, not {self.controls}")
            self.controls += control.number != DERIVED
            if control.what != LOST_MEMORY:
                self.changed[control.what] = control.value
        if commit.tuned is not None:
            self.tuned = commit.tuned.after(self.tuned)
        self.commit += 1
        self.version = commit.last_version
        self.stop = commit.stop

    def rejected_lately(self, updates: int) -> int:
        """Return how many of the latest `updates` updates were rejected. It looks back at most `RECENT` updates."""
        return sum(place > self.progress - updates for place in self.rejections)

    def _count(self, labels: tuple[int, ...]) -> None:
        self.labels += [0] * (len(labels) - len(self.labels))
        for label, count in enumerate(labels):
            self.labels[label] += count

    def copy(self) -> LogState:
        """Return a copy that advances independently."""
        log_state = LogState(self.workers, self.steps)
        for name in self.__slots__:
            setattr(log_state, name, _copied(getattr(self, name)))
        return log_state

    def dump(self) -> dict[str, Any]:
        """Return the record that goes into a snapshot's metadata."""
        record = {name: _copied(getattr(self, name)) for name in _DUMPED}
        record["staleness"] = [list(pair) for pair in sorted(self.staleness.items())]
        record["weights"] = [list(pair) for pair in self.weights]
        record["stop"] = asdict(self.stop) if self.stop else None
        record |= {"tuned": self.tuned.dump()} if self.tuned else {}
        return record | ({"residuals": list(self.residuals)} if self.residuals else {})

    @staticmethod
    def load(record: dict[str, Any], workers: int, steps: int) -> LogState:
        """Make a log state from the record in a snapshot's metadata."""
        log_state = LogState(workers, steps)
        for name in _DUMPED:
            setattr(log_state, name, _copied(record[name]))
        log_state.staleness = {staleness: count for staleness, count in record["staleness"]}
        log_state.weights = [tuple(pair) for pair in record["weights"]]
        log_state.stop = Stop(**record["stop"]) if record["stop"] else None
        log_state.residuals = tuple(record.get("residuals", ()))
        log_state.tuned = Tuned.load(record.get("tuned"))
        return log_state


def _copied(value: Any) -> Any:
    return value.copy() if isinstance(value, list | dict) else value
