"""What every algorithm must do. A new one takes one file and one line in `ALGORITHMS`: see `tests/parts/proximal.py`.

pytest -p mine --algorithm mine:3 tests/lambdaml/algorithms/test_conformance.py    # one of your own, in mine.py
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

import lambdaml
from lambdaml.algorithms import ALGORITHMS, GRADIENT, MOMENTUM, PARTIAL_SUM, STATISTICS
from lambdaml.codecs import DISPLACEMENT
from lambdaml.log.commits import averaged
from lambdaml.log.memory import Memory
from lambdaml.log.records import Update
from lambdaml.training.replica import Replica
from tests.lambdaml.lab import ClassMeans, Tiny, broken_off, equal, replica_of, settings_of

WORKERS, STEPS = 2, 6

OURS = [
    "gradient",
    "local:3",
    "local:epochs=0.5",
    "local:3,outer=sgd:0.5",
    "local:3,outer=nesterov",
    "local:3,outer=adam:lr=0.1,inner=keep,weights=equal",
    "local:4,outer=nesterov,fragments=2",
    "local:3,ahead=yes,outer=sum",
    "local:auto,most=3",
    "presum:3",
    "statistics",
    "statistics:3",
    "admm:1,steps=3",
]


@pytest.fixture(scope="module", params=[*OURS, "proximal:3"])
def algorithm(request: pytest.FixtureRequest) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ALGORITHMS.factories, "proximal", "tests.parts.proximal:Proximal")
        yield request.param


def job_of(algorithm: str) -> type[Tiny | ClassMeans]:
    """A job that has what the algorithm computes."""
    return ClassMeans if STATISTICS in ALGORITHMS.make(algorithm).gives else Tiny


def trained(algorithm: str, rounds: int = 3) -> tuple[Replica, list[Update]]:
    """A replica of two workers after some rounds, and its updates."""
    replica, updates = replica_of(job_of(algorithm)(), workers=WORKERS, steps=STEPS, algorithm=algorithm), []
    for seq in range(rounds):
        made = [replica.update(worker, seq) for worker in range(WORKERS)]
        replica.apply(averaged(seq, seq, made), {update.id: update for update in made})
        updates += made
    return replica, updates


def test_it_says_what_it_gives_and_whether_it_remembers(algorithm: str) -> None:
    made = ALGORITHMS.make(algorithm)
    assert made.gives <= {GRADIENT, PARTIAL_SUM, DISPLACEMENT, STATISTICS, MOMENTUM}
    assert len(made.gives & {GRADIENT, PARTIAL_SUM, DISPLACEMENT, STATISTICS}) == 1
    assert (made.summands > 1) == (PARTIAL_SUM in made.gives)
    assert isinstance(made.remembers, bool)
    parameters = [torch.nn.Parameter(torch.zeros(3))]
    assert (made.outer(parameters) is None) == (DISPLACEMENT not in made.gives), "all else is the job's optimizer's"


def test_its_updates_cover_a_workers_batches_one_after_the_other_and_no_more_than_it_says(algorithm: str) -> None:
    replica, updates = trained(algorithm)
    most = replica.algorithm.batches(replica.settings.steps_per_epoch)
    for worker in range(WORKERS):
        due = 0
        for update in (update for update in updates if update.worker == worker):
            first, count = update.batches or (update.seq, 1)
            assert (first, 1 <= count <= most) == (due, True)
            due = first + count


def test_computing_an_update_leaves_the_replica_and_the_memory_as_they_were(algorithm: str) -> None:
    replica, _ = trained(algorithm)
    before = replica.state().digest()
    for worker in range(WORKERS):
        memory = replica.memories.of(worker, 3).digest() if replica.parts.remembers else ""
        replica.compute(replica.assign(worker, 3))
        assert replica.state().digest() == before
        assert not memory or replica.memories.of(worker, 3).digest() == memory


def test_the_same_update_is_computed_from_the_same_state_and_a_memory_that_was_written(algorithm: str) -> None:
    """This is what lets a successor compute it again."""
    replica, _ = trained(algorithm)
    successor = replica_of(job_of(algorithm)(), workers=WORKERS, steps=STEPS, algorithm=algorithm)
    successor.load(replica.state())
    for worker in range(WORKERS):
        if replica.parts.remembers:
            memory = replica.memories.of(worker, 3)
            data = memory.dump(replica.log_state.commit)
            successor.memories.host(Memory.read(data, f"memory/{worker:05}/{3:010}"), successor.log_state)
        assignment = replica.assign(worker, 3)
        found = [each.compute(assignment).update(assignment, "fp32") for each in (replica, successor)]
        for update in found:
            update.pack()
        assert found[0].fingerprint() == found[1].fingerprint()


def test_every_replica_takes_its_updates_and_refuses_those_that_claim_other_batches(algorithm: str) -> None:
    replica, updates = trained(algorithm)
    assert [replica.check(update) for update in updates] == [""] * len(updates)
    for update in updates:
        first, count = update.batches or (update.seq, 1)
        for claim in ((first, count + 100), (first + 100, count)):
            assert replica.check(replace(update, batches=claim)) != ""


def test_updates_count_by_a_positive_number_of_samples(algorithm: str) -> None:
    settings = settings_of(job_of(algorithm)(), workers=3, algorithm=algorithm)
    replica, updates = trained(algorithm, rounds=1)
    entries = averaged(0, 0, updates).steps[0]
    shares = [replica.sampler.share(entry.worker, entry.seq) for entry in entries]
    assert all(replica.algorithm.samples(*each) > 0 for each in zip(entries, [settings] * 3, shares))


def test_equal_updates_move_the_model_as_one_of_them_would(algorithm: str) -> None:
    """What a commit does with the mean does not depend on how many updates the mean is of; a sum goes as often as far."""
    alone, all_alike = (
        replica_of(job_of(algorithm)(samples=64 * workers), workers=workers, algorithm=algorithm) for workers in (1, 4)
    )
    update, start, times = alone.update(0, 0), alone.local.values(), 4 if alone.algorithm.adds else 1
    copies = [replace(update, worker=worker) for worker in range(4)]
    alone.apply(averaged(0, 0, [update]), {update.id: update})
    all_alike.apply(averaged(0, 0, copies), {each.id: each for each in copies})
    moved, expected = all_alike.local.values() - start, times * (alone.local.values() - start)
    np.testing.assert_allclose(moved, expected, rtol=1e-6, atol=2e-7)


def test_a_state_that_was_written_goes_on_with_the_same_bits(algorithm: str) -> None:
    replica, _ = trained(algorithm)
    other = replica_of(job_of(algorithm)(), workers=WORKERS, steps=STEPS, algorithm=algorithm)
    other.load(replica.state())
    made = [replica.update(worker, 3) for worker in range(WORKERS)]
    commit = averaged(3, 3, made)
    for each in (replica, other):
        each.apply(commit, {update.id: update for update in made})
    assert equal(dict(replica.model.state_dict()), dict(other.model.state_dict()))
    assert replica.state().digest() == other.state().digest()


def test_a_run_that_broke_off_ends_learns_and_verifies(algorithm: str) -> None:
    made = ALGORITHMS.make(algorithm)
    schedule = "asp" if made.fragments == 1 and not made.duals else "bsp"
    run = broken_off(
        job_of(algorithm), workers=WORKERS, steps=10, algorithm=algorithm, schedule=schedule, snapshot_every=2
    )
    assert lambdaml.resume(run.store).metrics["accuracy"] >= 0.8
    assert run.verify().faults == []


def test_every_algorithm_of_ours_is_tried_here() -> None:
    ours = {name for name, place in ALGORITHMS.factories.items() if place.startswith("lambdaml.")}
    assert {spec.partition(":")[0] for spec in OURS} == ours
