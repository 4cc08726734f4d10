"""Fault schedules of workers that remember: bugs planted in the care for memories, and what the schedules must meet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from lambdaml.events import Event, FaultEvent
from lambdaml.log import keys, state
from lambdaml.log.memory import GiveBack, Memories, Memory
from lambdaml.log.records import Update
from lambdaml.log.state import LogState
from lambdaml.schedules.cohort import Turns
from lambdaml.simulation import stub_replica
from lambdaml.simulation.faults import FaultScenario, play, try_seeds
from lambdaml.simulation.judge import judge
from lambdaml.simulation.memory_judge import remembers
from lambdaml.worker import recovery, remembering
from lambdaml.worker.reading import read
from lambdaml.worker.remembering import Remembering
from lambdaml.worker.worker import Worker

Plant = Callable[[pytest.MonkeyPatch], None]


def takes_the_memory_of_the_wrong_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """An older object counts as the one that was asked for."""

    async def older(self: Remembering, worker: int, seq: int) -> Memory | None:
        world = self._shared.world
        for info in reversed(await world.store.list(keys.memories(worker))):
            if keys.number(info.key) < seq and (memory := await read(world, info.key, Memory.read)) is not None:
                memory.seq = seq
                return memory
        return await written(self, worker, seq)

    written = Remembering._written
    monkeypatch.setattr(Remembering, "_written", older)


def uses_a_void_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function that finds another's update in the place of its own goes on from what it remembers."""

    monkeypatch.setattr(Remembering, "differs", lambda self, update, made: False)


def adds_a_residual_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fate that is known when a memory is taken is settled again by whoever takes it."""

    def host(self: Memories, memory: Memory, log_state: LogState) -> None:
        before = dict(memory.pending)
        original(self, memory, log_state)
        for seq in set(before) - set(memory.pending):
            memory.pending[seq] = before[seq]
        memory.settle(log_state, self._give_back)

    original = Memories.host
    monkeypatch.setattr(Memories, "host", host)


def loses_a_residual_at_hand_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A memory is read without its pending updates."""

    async def forgetful(world: Any, key: str, unpack: Any, data: Any = None) -> Any:
        found = await read(world, key, unpack, data)
        if isinstance(found, Memory):
            found.pending = {}
        return found

    monkeypatch.setattr(remembering, "read", forgetful)
    monkeypatch.setattr(recovery, "read", forgetful)


def keeps_back_a_discarded_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was discarded does not return to the residual."""

    def settle(self: Memory, log_state: LogState, give_back: GiveBack) -> None:
        original(
            self, log_state, lambda memory, pending, weight: give_back(memory, pending, weight) if weight else None
        )

    original = Memory.settle
    monkeypatch.setattr(Memory, "settle", settle)


def folds_in_a_fate_after_the_base(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fates count as soon as the function knows them, although its replica has not come to their commit."""

    def early(self: Worker, seq: int, started: float) -> tuple[Update, bytes, tuple[str, ...]]:
        self._shared.replica.memories.settle(self._shared.known)
        return compute(self, seq, started)

    compute = Worker._compute
    monkeypatch.setattr(Worker, "_compute", early)


def remembers_a_damaged_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function goes on from what it remembers of an update that nobody else can read."""
    monkeypatch.setattr(state, "UNREADABLE", 0.0)


def takes_what_the_slot_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a run of cohorts a slot goes on from its own latest turn, whoever took it then."""
    monkeypatch.setattr(Turns, "latest", lambda self, slot, turn: (slot, turn - 1) if turn else None)


def forgets_who_was_not_drawn_lately(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deleting takes all memories from before the horizon, those of workers without a later turn, too."""
    monkeypatch.setattr(
        Turns, "superseded", lambda self, memories, turn: [each for each in memories if each[1] <= turn]
    )


def computes_from_the_shared_model_after_a_hand_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that was taken over begins at the base, without what it has not sent."""
    unsent = stub_replica.stub_unsent
    monkeypatch.setattr(stub_replica, "stub_unsent", lambda memory: 0 if memory.ready_commit else unsent(memory))


def goes_ahead_by_what_was_unsent_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker's own model is made once an update has its fate, and lags behind by one update."""
    unsent, latest = stub_replica.stub_unsent, dict[int, int]()

    def lagging(memory: Memory) -> int:
        found = latest.get(memory.worker, 0)
        latest[memory.worker] = unsent(memory)
        return found

    monkeypatch.setattr(stub_replica, "stub_unsent", lagging)


def takes_an_update_on_its_way_for_that_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that may be one update ahead does not count it as its own until it is applied."""
    monkeypatch.setattr(stub_replica, "stub_unsent", stub_replica.stub_residual)


PLANTS: tuple[tuple[Plant, str], ...] = (
    (takes_the_memory_of_the_wrong_update, "asp"),
    (uses_a_void_memory, "ssp:1"),
    (adds_a_residual_twice, "quorum:2"),
    (loses_a_residual_at_hand_over, "quorum:2"),
    (keeps_back_a_discarded_update, "quorum:2"),
    (folds_in_a_fate_after_the_base, "quorum:2"),
    (remembers_a_damaged_update, "asp"),
    (computes_from_the_shared_model_after_a_hand_over, "bsp"),
    (computes_from_the_shared_model_after_a_hand_over, "ssp:1"),
    (goes_ahead_by_what_was_unsent_before, "bsp"),
    (goes_ahead_by_what_was_unsent_before, "ssp:1"),
    (takes_an_update_on_its_way_for_that_of_another, "quorum:2"),
    (takes_what_the_slot_remembered, "cohort:2"),
    (forgets_who_was_not_drawn_lately, "cohort:2"),
)


@pytest.mark.parametrize(
    ("plant", "schedule"), PLANTS, ids=[f"{plant.__name__}-{schedule}" for plant, schedule in PLANTS]
)
def test_a_bug_planted_in_the_care_for_memories_is_found(
    plant: Plant, schedule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    for start in range(0, 300, 10):
        if broken := try_seeds(range(start, start + 10), schedule):
            break
    assert broken, "three hundred seeds did not find it"


def test_the_scenarios_trouble_memories(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memories are written, recovered, found void and begun anew; most seeds remember, and all keep the promises."""
    met: Counter[str] = Counter()

    def differs(self: Remembering, update: Update, made: Update) -> bool:
        found = did_differ(self, update, made)
        met["void"] += found
        return found

    def settle(self: Memory, log_state: LogState, give_back: GiveBack) -> None:
        begun = self.begun
        was_settled(self, log_state, give_back)
        met["anew"] += self.begun > begun

    did_differ, was_settled = Remembering.differs, Memory.settle
    monkeypatch.setattr(Remembering, "differs", differs)
    monkeypatch.setattr(Memory, "settle", settle)
    for seed in range(300):
        virtual, end = play(FaultScenario.draw(seed), lambda now, event: met.update([event.event, _fault(event)]))
        assert not judge(virtual, end)
        met["remembers"] += remembers(virtual)
    wanted = {"remembers": 150, "memory": 400, "remembered": 20, "void": 2, "anew": 4, "spoil": 8}
    assert not {name: met[name] for name, least in wanted.items() if met[name] < least}


def _fault(event: Event) -> str:
    return event.fault if isinstance(event, FaultEvent) else ""
