"""Schedules driven without any input or output."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, count

from hypothesis import settings
from hypothesis import strategies as st

from lambdaml.log.commits import build_commit
from lambdaml.log.records import Commit, Entry, Update
from lambdaml.log.state import LogState
from lambdaml.schedules import SCHEDULES
from lambdaml.staleness import RULES
from tests.lambdaml.lab import light

few = settings(max_examples=30)
choices = st.lists(st.integers(0, 1000), max_size=120)
workers = st.integers(1, 5)
faults = st.frozensets(st.tuples(st.integers(0, 4), st.integers(0, 5)), max_size=8)
SPECS = [
    "bsp",
    "pipeline:1",
    "pipeline:2",
    "asp",
    "ssp:0",
    "ssp:1",
    "ssp:3",
    "quorum:1",
    "quorum:2",
    "quorum:1,late=weight",
    "quorum:3,late=weight",
]


class Play:
    """A run of headers alone. Each choice picks one of the things that may happen next.

    Workers take a base when they start, publish later, and fall behind in between; the committer decides when it is
    its turn. After the choices, everything possible happens in a fixed order until the run ends.
    """

    def __init__(self, schedule: str, workers: int, steps: int, faults: frozenset[tuple[int, int]], **limits: int):
        self.schedule = SCHEDULES.make(schedule)
        self.log_state = LogState(workers, steps)
        self.limit = limits.get("max_rejected", 10**9)
        self.fences = limits.get("fences", 0)
        self.faults = faults
        self.published: dict[tuple[int, int], Update] = {}
        self.pending: list[Update] = []
        self.commits: list[Commit] = []
        self.next = [0] * workers
        self.last_base = [-1] * workers
        self.started: dict[int, int] = {}
        self.generation = [1] * workers

    def run(self, choices: list[int]) -> Play:
        source: Iterator[int] = chain(choices, count())
        for _ in range(100 + 40 * self.log_state.workers * self.log_state.steps):
            if self.log_state.stop:
                return self
            actions = self.actions()
            assert actions, f"a deadlock: {self.log_state.dump()}, pending {[u.id for u in self.pending]}"
            kind, worker = actions[next(source) % len(actions)]
            getattr(self, kind)(worker)
        raise AssertionError(f"the run does not end: {self.log_state.dump()}")

    def actions(self) -> list[tuple[str, int]]:
        found = []
        for worker in range(self.log_state.workers):
            seq = self.next[worker]
            if worker in self.started:
                found.append(("publish", worker))
            elif not self.schedule.leaves(self.log_state, worker, seq) and self.schedule.may_start(
                self.log_state, worker, seq, self.last_base[worker]
            ):
                found.append(("start", worker))
        return [*found, ("decide", -1)] if self.build_commit() else found

    def start(self, worker: int) -> None:
        self.started[worker] = self.log_state.version

    def publish(self, worker: int) -> None:
        base, seq = self.started.pop(worker), self.next[worker]
        fault = "faulty" if (worker, seq) in self.faults else ""
        generation = self.generation[worker]
        if self.fences and (worker * 7 + seq) % self.fences == 1:
            generation -= 1
        elif self.fences and (worker + seq) % 3 == 0:
            generation = self.generation[worker] = generation + 1
        update = light(worker, seq, base, generation=generation, samples=1 + (worker + seq) % 3, fault=fault)
        self.published[update.id] = update
        self.pending.append(update)
        self.next[worker], self.last_base[worker] = seq + 1, base

    def decide(self, _: int) -> None:
        commit = self.build_commit()
        assert commit is not None
        self.commits.append(commit)
        decided = {(entry.worker, entry.seq) for entry in commit.entries}
        self.log_state.advance(commit)
        self.pending = [update for update in self.pending if update.id not in decided]

    def build_commit(self) -> Commit | None:
        rule = RULES.make("constant")
        return build_commit(self.log_state, self.schedule, rule, self.pending, max_rejected=self.limit)

    @property
    def entries(self) -> list[Entry]:
        return [entry for commit in self.commits for entry in commit.entries]
