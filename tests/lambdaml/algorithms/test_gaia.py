"""Gaia: `local:1,ahead=yes,outer=sum` with the codec `significant` is what an ordinary loop over data centres computes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import lambdaml
from lambdaml.log.commits import averaged
from lambdaml.training.replica import Replica
from tests.lambdaml.algorithms.plain import Client
from tests.lambdaml.lab import Made, Tiny, model_bytes, settings_of, table, train

GAIA, SUM = "local:1,ahead=yes,outer=sum", "local:1,outer=sum"
LR, WORKERS, ROUNDS = 0.1, 3, 30


def tanh() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))


def job() -> Made:
    return Made(tanh, lambda ps: torch.optim.SGD(ps, lr=LR), dataset=lambda: table(61))


def replica_with(algorithm: str, codec: str, **options: Any) -> Replica:
    return Replica(job(), settings_of(job(), workers=WORKERS, algorithm=algorithm, codec=codec, **options))


def rounds(replica: Replica, count: int = ROUNDS) -> Iterator[list[int]]:
    """Take rounds of all workers, and yield how many numbers each worker sent."""
    for seq in range(count):
        made = [replica.update(worker, seq) for worker in range(replica.settings.workers)]
        replica.apply(averaged(seq, seq, made), {update.id: update for update in made})
        yield [len(update.body["value"] if "value" in update.body else update.body["gradient"]) for update in made]


def set_to(model: nn.Module, values: np.ndarray) -> None:
    nn.utils.vector_to_parameters(torch.from_numpy(values.copy()), model.parameters())


def values_of(model: nn.Module) -> np.ndarray:
    return nn.utils.parameters_to_vector(model.parameters()).detach().numpy().copy()


class DataCentres:
    """Gaia as a loop: each data centre has what it made and did not send, and a step is the sum of what all sent."""

    def __init__(self, start: np.ndarray, threshold: float, replica: Replica) -> None:
        self.shared, self.threshold = start, threshold
        self.unsent = [np.zeros_like(start) for _ in range(WORKERS)]
        self.clients = [Client(job(), replica.sampler, worker, replica.settings.seed) for worker in range(WORKERS)]

    def round(self, number: int) -> list[int]:
        """Take a round, and return how many numbers each data centre sent."""
        sums, counts = np.zeros_like(self.shared), []
        for worker, client in enumerate(self.clients):
            own = self.shared + self.unsent[worker]
            set_to(client.model, own)
            client.step(number)
            moved = self.unsent[worker] + (values_of(client.model) - own)
            bound = np.abs(self.shared) * np.float32(self.threshold / np.sqrt(number + 1))
            sent = np.where(np.abs(moved) > bound, moved, np.float32(0))
            if 2 * np.count_nonzero(sent) >= len(sent):  # places and numbers are not smaller than all numbers
                sent = moved
            self.unsent[worker] = moved - sent
            counts.append(np.count_nonzero(sent) if sent is not moved else len(sent))
            sums += sent
        self.shared = self.shared + sums
        return counts


@pytest.mark.parametrize("threshold", [0.05, 0.3, 3.0])
def test_gaia_is_a_loop_over_data_centres(threshold: float) -> None:
    replica = replica_with(GAIA, f"significant:{threshold}", error_feedback=1.0)
    loop = DataCentres(replica.local.values(), threshold, replica)
    counts = []
    for number, found in enumerate(rounds(replica)):
        counts.append(loop.round(number))
        assert found == counts[-1], f"round {number}"
        assert np.allclose(replica.local.values(), loop.shared, rtol=0, atol=1e-6)
    assert np.mean(counts) < 0.9 * replica.flat.size, "it left something unsent"


def test_to_be_ahead_of_the_base_matters_only_where_something_is_unsent() -> None:
    ends = {}
    for algorithm in (GAIA, SUM):
        for threshold in (0.0, 0.3):
            replica = replica_with(algorithm, f"significant:{threshold}", error_feedback=1.0 if threshold else 0.0)
            for _ in rounds(replica):
                pass
            ends[algorithm, threshold] = replica.local.values().tobytes()
    assert ends[GAIA, 0.0] == ends[SUM, 0.0]
    assert ends[GAIA, 0.3] != ends[SUM, 0.3]


@pytest.mark.parametrize(
    ("schedule", "error_feedback"),
    [("bsp", None), ("bsp", 1.0), ("ssp:0", None), (f"quorum:{WORKERS}", 1.0), ("pipeline:1", None)],
)
def test_gaia_at_a_threshold_of_zero_is_local_steps_bit_for_bit(schedule: str, error_feedback: float | None) -> None:
    asked: dict[str, Any] = {"workers": WORKERS, "steps": 8, "schedule": schedule, "functions": 2}
    gaia = train(job(), algorithm=GAIA, codec="significant:0", error_feedback=error_feedback, **asked)
    local = train(job(), algorithm=SUM, codec="fp32", **asked)
    assert model_bytes(gaia) == model_bytes(local)


def test_a_sum_is_the_mean_of_models_if_there_is_one_worker() -> None:
    ends = {model_bytes(train(job(), algorithm=name, workers=1, steps=8)) for name in (SUM, "local:1")}
    assert len(ends) == 1


def test_a_step_is_the_sum_of_what_workers_sent_and_every_pattern_gives_its_bits() -> None:
    replica = replica_with("local:2,outer=sum", "fp32")
    for seq in range(5):
        before = replica.local.values()
        made = [replica.update(worker, seq) for worker in range(WORKERS)]
        one, two, three = (update.body["gradient"] for update in made)
        replica.apply(averaged(seq, seq, made), {update.id: update for update in made})
        assert np.array_equal(replica.local.values(), before + ((one + two) + three))
    asked: dict[str, Any] = {"algorithm": "local:2,outer=sum", "workers": 4, "steps": 5, "bracket": "2^2"}
    ends = {
        model_bytes(train(Tiny, functions=functions, pattern=pattern, **asked))
        for functions, pattern in ((1, "gather"), (4, "tree:2"))
    }
    assert len(ends) == 1
    flat = {model_bytes(train(Tiny, **asked | {"bracket": None, "pattern": name})) for name in ("gather", "scatter")}
    assert len(flat) == 1


def test_an_update_without_a_fate_counts_as_the_workers_own_part() -> None:
    """In `pipeline:1` a worker computes from the model of the round before with its latest update, which is on its way."""
    replica = replica_with(GAIA, "significant:0.3", error_feedback=1.0, schedule="pipeline:1")
    start, waiting = replica.local.values(), []
    for worker in range(WORKERS):
        first = replica.update(worker, 0)
        assert replica.feedback is not None
        unsent = replica.feedback.unsent(replica.memories.of(worker, 1))
        assert unsent is not None and np.array_equal(unsent, replica.memories.of(worker, 1).pending[0].vector)
        client = Client(job(), replica.sampler, worker, replica.settings.seed)
        set_to(client.model, start + unsent)
        client.step(1)
        waiting.append((first, replica.update(worker, 1)))
        moved = values_of(client.model) - (start + unsent)
        assert np.allclose(replica.memories.of(worker, 2).pending[1].vector, moved, rtol=0, atol=1e-7)
    for seq in range(2):
        made = [both[seq] for both in waiting]
        replica.apply(averaged(seq, seq, made), {update.id: update for update in made})
    for worker in range(WORKERS):
        memory = replica.memories.of(worker, 2)
        assert not memory.pending
        assert np.array_equal(replica.feedback.unsent(memory), memory.arrays["residual"]), "what was left out is unsent"


@pytest.mark.parametrize("schedule", ["bsp", "ssp:2", "asp", "quorum:2", "quorum:2,late=weight", "pipeline:1"])
def test_its_runs_are_replayed_and_computed_again(schedule: str) -> None:
    run = train(
        job(),
        algorithm=GAIA,
        codec="significant:0.3",
        workers=WORKERS,
        steps=12,
        schedule=schedule,
        functions=2,
        keep="all",
    )
    report = lambdaml.Run(run.store, job()).verify(deep=1)
    assert not report.faults and report.recomputed >= 12
