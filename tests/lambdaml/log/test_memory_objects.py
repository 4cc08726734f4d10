"""Memories as objects: what they hold, and how they begin anew with the fate of a damaged update."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lambdaml.errors import RunFailed
from lambdaml.log import keys
from lambdaml.log.memory import Memories, Memory, PendingUpdate
from lambdaml.log.records import DAMAGED, Commit, Entry
from lambdaml.log.state import UNREADABLE, LogState


def vector(*numbers: int) -> Any:
    return np.array(numbers, np.int64)


def remembered(seq: int, **more: Any) -> Memory:
    """A memory with a residual, whose latest update is pending."""
    pending = {seq - 1: PendingUpdate(vector(7), {"sent": vector(5)})}
    return Memory(0, seq, {"residual": vector(3)}, {"batches": seq}, pending, **more)


def decided(*fates: str) -> LogState:
    """The log state after updates 0, 1, ... of worker 0 got these fates, one a commit."""
    log_state = LogState(2, 9)
    for seq, fate in enumerate(fates):
        entry = Entry(0, seq, 0, 1, 8, 0.5, 0, fate="rejected", reason=fate)
        steps = () if fate else ((Entry(0, seq, 0, 1, 8, 0.5, 0, 1.0),),)
        log_state.advance(Commit(seq, log_state.version, steps, (entry,) if fate else ()))
    return log_state


def nothing(memory: Memory, pending: PendingUpdate, weight: float) -> None:
    pass


def test_a_memory_is_read_back_as_it_was() -> None:
    memory = remembered(4, begun=2)
    found = Memory.read(memory.dump(ready_commit=9), keys.memory(0, 4))
    assert (found.digest(), found.begun, found.ready_commit) == (memory.digest(), 2, 9)


def test_an_array_without_dimensions_is_read_back_without_any() -> None:
    """Adam counts its steps in one."""
    memory = Memory(0, 1, {"step": np.array(3.0, np.float32)})
    found = Memory.read(memory.dump(0), "memory/00000/0000000001")
    assert found.arrays["step"].shape == () and found.digest() == memory.digest()


def test_a_log_state_tells_damaged_updates_from_others_that_were_refused() -> None:
    assert decided("", DAMAGED).weights[0] == (1.0, UNREADABLE)
    assert decided("gradient is not finite", "").weights[0] == (0.0, 1.0)
    log_state = decided(DAMAGED)
    assert LogState.load(log_state.dump(), 2, 9).weights == log_state.weights


def test_a_memory_begins_anew_with_the_fate_of_a_damaged_update_and_only_once() -> None:
    memory = remembered(2)
    memory.settle(decided("", DAMAGED), nothing)
    assert (memory.arrays, memory.values, memory.pending, memory.begun) == ({}, {}, {}, 2)
    memory.arrays, memory.seq = {"residual": vector(4)}, 3
    memory.settle(decided("", DAMAGED, ""), nothing)
    assert memory.arrays["residual"] == vector(4)


def test_a_memory_that_lacks_an_update_serves_when_it_has_begun_anew() -> None:
    memories, memory = Memories(nothing, in_turns=False), remembered(2, lacks=1)
    memories.host(memory, decided(""))
    assert memories.unready(0, 2) and not memories.holds(0, 2)
    memories.settle(decided("", DAMAGED))
    assert memories.holds(0, 2) and not memory.arrays


def test_an_update_whose_publisher_decided_its_fate_and_that_nobody_else_can_read_ends_the_run_by_name() -> None:
    with pytest.raises(RunFailed, match=r"updates/00000/0000000001 has its fate from its publisher"):
        remembered(2, lacks=1).settle(decided("", ""), nothing)


def test_a_memory_serves_from_the_commit_on_for_which_it_was_written() -> None:
    memories = Memories(nothing, in_turns=False)
    memories.host(remembered(2, ready_commit=2), decided(""))
    assert memories.unready(0, 2)
    with pytest.raises(RunFailed, match="no memory"):
        memories.of(0, 2)
    memories.settle(decided("", ""))
    assert memories.holds(0, 2)


@pytest.mark.parametrize("size", [10, 20_000, 123_457])
def test_a_digest_changes_with_any_bit_and_any_order(size: int) -> None:
    stream = np.random.default_rng(1)
    array = stream.normal(size=size).astype(np.float32)

    def digest(values: Any) -> str:
        return Memory(0, 1, {"residual": values}).digest()

    whole = digest(array)
    assert digest(array.copy()) == whole
    for place in [0, size - 1, *stream.integers(0, size, 30).tolist()]:
        for bit in (0, 13, 31):
            other = array.copy()
            other.view(np.uint32)[place] ^= np.uint32(1 << bit)
            assert digest(other) != whole
    for first, second in [(0, size - 1), (1, 2), (0, size // 2), *stream.integers(0, size, (30, 2)).tolist()]:
        swapped = array.copy()
        swapped[[first, second]] = swapped[[second, first]]
        assert first == second or digest(swapped) != whole
    assert digest(np.append(array, np.float32(0))) != whole and digest(array.astype(np.float64)) != whole
