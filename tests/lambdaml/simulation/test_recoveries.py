"""Recoveries of memories in the virtual world: when a function leaves one, and what counts after one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from lambdaml.events import Event, MemoryEvent
from lambdaml.log.memory import Memory, PendingUpdate
from lambdaml.simulation.engine import VirtualRun
from lambdaml.simulation.stub_replica import Costs, StubReplica
from lambdaml.worker.remembering import Remembering
from tests.lambdaml.simulation.scenes import scene, settings_for

KILLED_S = 25.0
"""By then each of the two workers has made about 12 updates of a second."""


def killed(events: list[Event], **settings: Any) -> VirtualRun:
    """A run whose only function is killed, so that its successor must recover two memories."""
    virtual: VirtualRun = scene(
        "bsp",
        workers=2,
        steps=40,
        functions=1,
        step_s=1.0,
        kind=VirtualRun,
        settings={"error_feedback": 1.0, "lease_s": 5.0, **settings},
        trace=lambda now, event: events.append(event),
    )
    virtual.kernel.at(KILLED_S, lambda: virtual.lives[0].world.group.kill())
    return virtual


def test_a_function_that_must_leave_does_not_wait_for_its_recovery() -> None:
    virtual = killed([], recover_s=1000.0)
    asked_s = KILLED_S + 15.0
    virtual.kernel.at(asked_s, lambda: virtual.lives[1].world.ask_to_leave())
    assert virtual.run(1000.0)
    second, third = virtual.lives[1:3]
    assert second.world.busy_s > 2, "it had begun to compute again"
    assert second.outcome == "left" and second.ended_s is not None and second.ended_s < asked_s + 3
    assert third.outcome == "done"


def test_what_was_computed_again_counts_as_unwritten() -> None:
    events: list[Event] = []
    virtual = killed(events, recover_s=20.0)
    assert virtual.run(1000.0)
    written = [event.updates for event in events if isinstance(event, MemoryEvent)]
    assert written and max(written[:2]) <= 22, "a memory is due when all since the last one takes 20 s"


def test_a_memory_that_comes_too_late_is_not_taken() -> None:
    """Another function published three updates more meanwhile, so the fate of the pending one is not known any more."""
    replica = StubReplica(settings_for("asp", 2, 9, error_feedback=1.0), Costs())
    remembering: Any = Remembering(SimpleNamespace(replica=replica, settings=replica.settings))  # type: ignore[arg-type]
    remembering._waiting = {0: 3}
    memory = Memory(0, 3, pending={2: PendingUpdate(np.array([8], np.int64), {})})
    replica.log_state.next_seq = [6, 0]
    remembering._take(memory)
    assert not replica.memories.holds(0, 3)
    replica.log_state.next_seq = [3, 0]
    remembering._take(memory)
    assert replica.memories.holds(0, 3)
