"""Parameters that require no gradient are written once, and every state is whole all the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import lambdaml
from lambdaml.errors import BadObject
from lambdaml.log import keys
from lambdaml.log.snapshot import State, read_state
from lambdaml.training.frozen import Frozen
from tests.lambdaml.lab import Made, Tiny, broken_off, equal, model_bytes, read_back, replica_of, round_of, train


class Adapted(nn.Module):
    """A large layer that stays, and a small one beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(6, 3000).requires_grad_(False)
        self.register_buffer("seen", torch.zeros(()))
        self.adapter = nn.Linear(6, 4)
        self.out = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen += 1
        return self.out(self.adapter(x)) + self.base(x)[:, :3]


class Averaging(torch.optim.SGD):
    """Changes a parameter that requires no gradient, as a slow copy of a network is kept."""

    def step(self, closure: Any = None) -> Any:
        found = super().step(closure)
        with torch.no_grad():
            still, *_, moving = (p for group in self.param_groups for p in group["params"])
            still[0, 0] += moving.mean()
        return found


class Adapting(Made):
    def __init__(self) -> None:
        def weigh(model: nn.Module) -> dict[str, float]:
            return {"w": float(model.base.weight.sum())}

        super().__init__(Adapted, lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9), evaluate=weigh)


class AveragingJob(Made):
    def __init__(self) -> None:
        super().__init__(Adapted, lambda ps: Averaging(ps, lr=0.1))


OPTIONS: dict[str, Any] = {"workers": 2, "steps": 6, "snapshot_every": 2}


@pytest.fixture(scope="module")
def run() -> lambdaml.Run:
    return train(Adapting, **OPTIONS)


def snapshots(run: lambdaml.Run) -> list[int]:
    return [info.size_bytes for info in run.store.list(keys.SNAPSHOTS)]


def test_frozen_parameters_stand_in_an_object_of_their_own_and_in_no_snapshot(run: lambdaml.Run) -> None:
    frozen = State.load(run.store.get(keys.FROZEN) or b"", keys.FROZEN)
    assert sorted(frozen.tensors) == ["model/base.bias", "model/base.weight"]
    assert len(snapshots(run)) == 4
    assert max(snapshots(run)) < 4_000
    assert len(run.store.get(keys.FROZEN) or b"") > 80_000


def test_a_model_without_frozen_parameters_has_no_such_object() -> None:
    plain = train(Tiny, workers=1, steps=2)
    assert plain.store.get(keys.FROZEN) is None
    assert "frozen" not in State.load(plain.store.get(keys.snapshot(0)) or b"", "k").meta


def test_the_result_and_every_version_are_whole(run: lambdaml.Run) -> None:
    names = set(Adapted().state_dict())
    assert set(run.model().state_dict()) == set(run.replay(4).model()) == names
    assert run.replay(6).dump_model() == model_bytes(run)
    assert run.verify().ok
    state = read_state(run.store, keys.snapshot(4))
    assert state is not None and state.digest() == run.replay(4).digest()
    assert equal(state.model(), run.replay(4).model())


def test_evaluation_sees_the_frozen_parameters(run: lambdaml.Run) -> None:
    base = State.load(run.store.get(keys.FROZEN) or b"", keys.FROZEN).tensors["model/base.weight"]
    assert run.metrics()[6] == {"w": float(base.sum())}


def test_a_run_that_broke_off_ends_with_the_same_bits(run: lambdaml.Run) -> None:
    left = broken_off(Adapting, at=3, **OPTIONS)
    lambdaml.resume(left.store)
    assert model_bytes(left) == model_bytes(run)
    assert left.verify().ok


def test_a_run_whose_snapshots_hold_everything_goes_on(run: lambdaml.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of earlier versions do."""
    with monkeypatch.context() as patch:
        patch.setattr(Frozen, "still", lambda self: ({}, ""))
        left = broken_off(Adapting, at=3, **OPTIONS)
    lambdaml.resume(left.store)
    assert model_bytes(left) == model_bytes(run)
    assert left.store.get(keys.FROZEN) is None
    assert len(snapshots(left)) == 4 and min(snapshots(left)) > 80_000


def test_another_runs_state_is_gone_on_from_with_its_frozen_parameters(run: lambdaml.Run) -> None:
    after = train(Adapting, init_from=f"{run.store.url}@6", **{**OPTIONS, "seed": 5})
    bases = [State.load(one.store.get(keys.FROZEN) or b"", keys.FROZEN).tensors for one in (run, after)]
    assert equal(*bases)
    assert after.verify().ok


def test_what_something_changes_all_the_same_stands_in_the_snapshots_from_then_on() -> None:
    whole = train(AveragingJob, **OPTIONS)
    first, later = (State.load(whole.store.get(keys.snapshot(v)) or b"", "k") for v in (0, 4))
    assert "model/base.weight" not in first.tensors and "model/base.weight" in later.tensors
    assert "model/base.bias" not in later.tensors
    assert whole.verify().ok
    left = broken_off(AveragingJob, at=3, **OPTIONS)
    lambdaml.resume(left.store)
    assert model_bytes(left) == model_bytes(whole)


def test_a_change_is_in_the_digest() -> None:
    one, other = (replica_of(Adapting()) for _ in range(2))
    assert one.state().digest() == other.state().digest()
    with torch.no_grad():
        other.model.base.weight[5, 5] += 1
    assert one.state().digest() != other.state().digest()
    resumed = replica_of(Adapting())
    resumed.load(read_back(one.state()).over(one.state().base()))
    round_of(one)
    round_of(resumed)
    assert one.state().digest() == resumed.state().digest()


def test_a_state_over_other_frozen_parameters_is_refused(run: lambdaml.Run) -> None:
    state = State.load(run.store.get(keys.snapshot(2)) or b"", "k")
    with pytest.raises(BadObject, match="other parameters"):
        state.over(State({"model/base.weight": torch.zeros(3000, 6)}, {}))
