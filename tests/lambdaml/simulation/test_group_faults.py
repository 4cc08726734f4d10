"""Fault schedules of workers that have models of their own, and bugs planted in what keeps these right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from lambdaml.log import keys
from lambdaml.log.own_models import OwnModels
from lambdaml.patterns.grouped import GroupExchange
from lambdaml.schedules.groups import Grouping
from lambdaml.simulation.faults import FaultScenario, play, try_seeds
from lambdaml.simulation.judge import judge
from lambdaml.simulation.stub_replica import StubMean
from lambdaml.worker import averages
from lambdaml.worker.retention import Retention

Plant = Callable[[pytest.MonkeyPatch], None]


def averages_with_the_group_of_the_round_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker looks up its group when it has begun the next round."""
    around = Grouping.around

    def late(self: Grouping, turn: int, worker: int) -> Sequence[int]:
        return around(self, turn + 1, worker)

    monkeypatch.setattr(Grouping, "around", late)


def averages_what_must_be_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function adds up whatever it has read."""
    find = GroupExchange._find

    async def blind(self: GroupExchange, round_: Any, place: int) -> None:
        await find(self, round_, place)
        round_.found[round_.group[place]].fault = ""

    monkeypatch.setattr(GroupExchange, "_find", blind)


def goes_on_from_its_own_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever takes a worker over goes on from the worker's own latest model, without its group."""
    recover = GroupExchange.recover

    async def alone(self: GroupExchange, worker: int) -> int:
        grouping, generation = self._own.grouping, self._shared.leases.held.get(worker, 1)
        if generation == 1:
            return await recover(self, worker)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(grouping, "around", lambda turn, member: [member])
            return await recover(self, worker)

    monkeypatch.setattr(GroupExchange, "recover", alone)


def deletes_what_a_silent_worker_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """History is deleted as in runs that go on from a snapshot, although models rest on updates alone."""
    monkeypatch.setattr(Retention, "_reached", lambda self, place: True)
    monkeypatch.setattr(Retention, "_recoverable", lambda self, place, memories: True)


def adds_up_in_the_order_of_arrival(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean is taken over a group in the order in which its updates came."""
    finish = StubMean.finish

    def arrived(self: StubMean) -> Any:
        self._terms.sort(key=lambda term: -term[2])
        return finish(self)

    monkeypatch.setattr(StubMean, "finish", arrived)


PLANTS: tuple[Plant, ...] = (
    averages_with_the_group_of_the_round_before,
    averages_what_must_be_rejected,
    goes_on_from_its_own_update,
    deletes_what_a_silent_worker_needs,
    adds_up_in_the_order_of_arrival,
)


@pytest.mark.parametrize("plant", PLANTS, ids=[plant.__name__ for plant in PLANTS])
def test_a_bug_planted_in_the_averaging_is_found(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    for start in range(0, 300, 10):
        if broken := try_seeds(range(start, start + 10), "groups:2"):
            break
    assert broken, "three hundred seeds did not find it"


@pytest.mark.parametrize("seed", [2430, 5298])
def test_what_once_went_wrong_stays_right(seed: int) -> None:
    """Generations of a worker that fall, and a writer who does not know that all of a group were rejected before it began."""
    assert try_seeds([seed]) == []


@pytest.mark.parametrize("schedule", ["groups:2", "groups:2,shuffle=random", "groups:1", "groups:4"])
def test_no_fault_breaks_a_promise(schedule: str) -> None:
    assert try_seeds(range(150), schedule) == []


def test_the_scenarios_trouble_what_groups_rest_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are found again, means are missing since all of a group was rejected, memories are recovered, and history is
    deleted."""
    met: Counter[str] = Counter()
    before, barren = averages.model_before, OwnModels.barren

    def counted(self: OwnModels, commit: Any) -> Any:
        found = barren(self, commit)
        met["barren"] += len(found)
        return found

    monkeypatch.setattr(OwnModels, "barren", counted)
    for seed in range(150):
        virtual, end = play(FaultScenario.draw(seed, "groups:2"), lambda now, event: met.update([event.event]))
        assert not judge(virtual, end)
        met["deleted"] += sum(gone.key.startswith(keys.UPDATES) for gone in virtual.bucket.deleted)
    assert before is averages.model_before
    assert met["barren"] > 10 and met["remembered"] > 10 and met["memory"] > 100 and met["deleted"] > 50
    assert met["takeover"] > 10
