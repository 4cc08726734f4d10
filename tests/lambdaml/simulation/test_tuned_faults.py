"""Fault schedules of tuned runs: whatever goes wrong, the log takes the decisions of a run in which nothing does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest

from lambdaml.log import keys
from lambdaml.log.records import Control, Update
from lambdaml.log.state import LogState
from lambdaml.log.tuned import Tuned
from lambdaml.log.tuning import Tuning
from lambdaml.simulation.engine import VirtualRun
from lambdaml.simulation.faults import GAIA, FaultScenario, play
from lambdaml.simulation.judge import judge
from lambdaml.worker.travelling import Travelling
from lambdaml.worker.worker import Worker

SEEDS = 200


def drawn(seed: int) -> FaultScenario:
    """A run of bsp that is tuned every other round, with the faults of a seed. It ends after its last step."""
    scenario = FaultScenario.draw(seed, "bsp")
    return replace(
        scenario,
        steps=scenario.steps + 6,
        algorithm=GAIA,
        error_feedback=True,
        pattern="gather",
        tune="skewscout:every=2,factor=2,loss=0.2",
        evaluation_s=0.0,
    )


def calm(scenario: FaultScenario) -> FaultScenario:
    """The same run, in which only those updates are refused that every replica refuses."""
    kept = (
        "seed",
        "schedule",
        "workers",
        "functions",
        "steps",
        "snapshot_every",
        "lease_s",
        "bad",
        "algorithm",
        "tune",
    )
    return FaultScenario(**{name: getattr(scenario, name) for name in kept}, error_feedback=True)


def decisions(virtual: VirtualRun) -> list[tuple[object, object]]:
    """What the log says of the tuning."""
    return [(commit.tuned, commit.controls) for commit in virtual.log()]


def broken(seed: int) -> list[str]:
    """The promises that the run of a seed broke."""
    scenario = drawn(seed)
    virtual, end = play(scenario)
    found = judge(virtual, end)
    if not found and decisions(virtual) != decisions(play(calm(scenario))[0]):
        found.append("the log takes other decisions than without faults")
    return found


def test_tuned_runs_keep_their_promises_and_their_decisions_whatever_goes_wrong() -> None:
    found = {seed: each for seed in range(SEEDS) if (each := broken(seed))}
    assert found == {}


def test_the_knob_turns_both_ways_in_these_runs_and_models_travel() -> None:
    values = [change.value for seed in range(20) for commit in play(drawn(seed))[0].log() for change in commit.controls]
    assert min(values) < 0.5 < max(values)
    virtual, _ = play(replace(drawn(3), keep_bytes=None, keep_rounds=None))
    travels = [keys.update_id(info.key) for info in virtual.bucket.list(keys.TRAVEL)]
    assert sorted(seq for _, seq in travels) == [*range(1, virtual.settings.steps, 2)]
    assert {worker for worker, _ in travels} == set(range(virtual.settings.workers))


# ---- Planted bugs.


def forgets_the_tuner_in_a_snapshot(patch: pytest.MonkeyPatch) -> None:
    """A function that begins at a snapshot asks a tuner that knows nothing."""
    dump = LogState.dump
    patch.setattr(LogState, "dump", lambda self: {name: value for name, value in dump(self).items() if name != "tuned"})


def counts_headers_too(patch: pytest.MonkeyPatch) -> None:
    """Headers hold times, so no two computations of an update have the same size."""
    account = Tuning.account

    def by_size(self: Tuning, log_state: LogState, updates: Iterable[Update]) -> tuple[Tuned, Control | None]:
        return account(self, log_state, [replace(update, body_bytes=update.size_bytes) for update in updates])

    patch.setattr(Tuning, "account", by_size)


def lets_a_model_travel_after_its_update(patch: pytest.MonkeyPatch) -> None:
    """Others look for it at once, and a death in between loses it."""
    leave, create = Travelling.leave, Worker._create

    async def late(self: Worker, update: Update, data: bytes, started: float) -> tuple[Update, bool]:
        created = await create(self, update, data, started)
        await leave(self._travelling, update)
        return created

    async def nothing(self: Travelling, update: Update) -> None:
        pass

    patch.setattr(Travelling, "leave", nothing)
    patch.setattr(Worker, "_create", late)


@pytest.mark.parametrize(
    "plant", [forgets_the_tuner_in_a_snapshot, counts_headers_too, lets_a_model_travel_after_its_update]
)
def test_a_planted_bug_is_found(plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    assert any(broken(seed) for seed in range(60))
