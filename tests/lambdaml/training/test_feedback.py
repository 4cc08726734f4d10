"""Error feedback: how much comes back to the residual, and that nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest

from lambdaml.codecs import CODECS, Layout, UpdateContext
from lambdaml.log.memory import Memory
from lambdaml.log.records import Commit, Entry
from lambdaml.training.feedback import Feedback
from tests.lambdaml.lab import Tiny, replica_of

LAYOUT = Layout.flat(1000)
WEIGHTS = (1.0, 0.0, 1.0, 0.25, 0.0, 0.0, 1.0, 1.0)
"""The weights that the rule gives to a worker's updates, one after the other; 0 is a discarded one."""


@pytest.mark.parametrize("codec", ["fp32", "bf16"])
@pytest.mark.parametrize("decay", [1.0, 0.95])
def test_the_residual_is_what_was_not_applied_of_vector_and_residual(codec: str, decay: float) -> None:
    made, draw = CODECS.make(codec), np.random.default_rng(0)
    feedback = Feedback(
        decay, made.exact, lambda body, weight, out: made.add(body, weight, out, LAYOUT, slice(0, len(out)))
    )
    memory, residual = Memory(0), np.zeros(1000, np.float32)
    nonzero = 0
    for seq, weight in enumerate(WEIGHTS):
        vector = draw.standard_normal(1000).astype(np.float32)
        plain = residual * np.float32(decay) + vector
        taken = feedback.take_up(memory, vector.copy())
        assert taken.tobytes() == plain.tobytes()
        body = made.encode(taken, LAYOUT, UpdateContext(seed=seq))
        sent = made.values(body, LAYOUT).copy()
        bits = body["gradient"].tobytes()
        feedback.sent(memory, seq, taken.copy(), body)
        feedback.give_back(memory, memory.pending.pop(seq), weight)
        residual = plain - np.float32(weight) * sent
        found = memory.arrays.get("residual", np.zeros(1000, np.float32))
        assert np.array_equal(found, residual)
        assert body["gradient"].tobytes() == bits
        assert "residual" not in memory.arrays or residual.any()
        nonzero += bool(residual.any())
    assert nonzero >= 4


def test_two_pending_updates_come_back_one_after_the_other() -> None:
    made = CODECS.make("fp32")
    feedback = Feedback(
        1.0, made.exact, lambda body, weight, out: made.add(body, weight, out, LAYOUT, slice(0, len(out)))
    )
    memory, first, second = Memory(0), np.arange(1.0, 9.0, dtype=np.float32), np.full(8, 2.0, np.float32)
    for seq, vector in enumerate((first, second)):
        feedback.sent(
            memory, seq, feedback.take_up(memory, vector), made.encode(vector, LAYOUT, UpdateContext(seed=seq))
        )
    feedback.give_back(memory, memory.pending.pop(0), 0.0)
    feedback.give_back(memory, memory.pending.pop(1), 0.5)
    assert np.array_equal(memory.arrays["residual"], first + 1)


def test_unsent_is_what_the_next_update_takes_up_and_all_updates_without_a_fate() -> None:
    feedback, memory = Feedback(0.5, False, lambda body, weight, out: None), Memory(0)
    assert feedback.unsent(memory) is None
    one, two, three = (np.full(8, value, np.float32) for value in (1.0, 10.0, 100.0))
    memory.arrays["residual"] = one
    assert np.array_equal(feedback.unsent(memory), feedback.take_up(memory, np.zeros(8, np.float32)))
    feedback.sent(memory, 0, two, {})
    feedback.sent(memory, 1, three, {})
    assert np.array_equal(feedback.unsent(memory), np.full(8, 110.0))
    memory.arrays["residual"] = one
    assert np.array_equal(feedback.unsent(memory), np.full(8, 110.5))
    assert (one[0], two[0], three[0]) == (1.0, 10.0, 100.0)


@pytest.mark.parametrize("codec", ["fp32", "bf16"])
def test_what_comes_back_changes_neither_the_update_nor_the_replicas_gradient(codec: str) -> None:
    """The vector may stand in the update's own memory, and is not written to there."""
    replica = replica_of(Tiny(), codec=codec, error_feedback=1.0)
    updates = []
    for seq, weight in enumerate((0.5, 0.25, 0.0)):
        update = replica.update(0, seq)
        updates.append((update, update.fingerprint()))
        entry = Entry(0, seq, update.base, 1, update.samples, update.loss, 0, weight)
        commit = Commit(seq, replica.version, ((entry,),))
        replica.apply(commit, {update.id: update})
        assert not replica.memories.of(0, seq + 1).pending
    assert "residual" in replica.memories.of(0, 3).arrays
    assert [update.fingerprint() for update, _ in updates] == [before for _, before in updates]
