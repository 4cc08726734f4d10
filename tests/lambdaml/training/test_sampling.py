"""The data order: every sample once an epoch, a pure function of the seed, the worker and the sequence number."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambdaml.errors import SettingsError
from lambdaml.seeds import derive_seed
from lambdaml.training.sampling import Sampler


@st.composite
def samplers(draw: st.DrawFn) -> Sampler:
    workers = draw(st.integers(1, 12))
    return Sampler(draw(st.integers(workers, 400)), workers, draw(st.integers(1, 40)), draw(st.integers(0, 5)))


def epoch_of(sampler: Sampler, epoch: int) -> list[list[int]]:
    steps = range(epoch * sampler.steps_per_epoch, (epoch + 1) * sampler.steps_per_epoch)
    return [sampler.indices(worker, seq).tolist() for worker in range(sampler.workers) for seq in steps]


@given(samplers(), st.integers(0, 3))
def test_an_epoch_holds_every_sample_exactly_once(sampler: Sampler, epoch: int) -> None:
    dealt = [index for batch in epoch_of(sampler, epoch) for index in batch]
    assert sorted(dealt) == list(range(sampler.samples))


@given(samplers(), st.integers(0, 3))
def test_no_batch_is_empty(sampler: Sampler, epoch: int) -> None:
    assert min(len(batch) for batch in epoch_of(sampler, epoch)) >= 1


@given(st.integers(1, 12), st.data())
def test_no_batch_is_larger_than_asked_for_unless_it_would_be_a_single_sample_or_none(
    workers: int, data: st.DataObject
) -> None:
    """All workers make equally many updates an epoch. Where the shares differ by one sample and the smaller one would
    run out, as with batches of one, the larger share makes batches of one sample more."""
    samples, size = data.draw(st.integers(workers, 400)), data.draw(st.integers(1, 40))
    sampler = Sampler(samples, workers, size, 0)
    largest = max(len(batch) for batch in epoch_of(sampler, 0))
    share, rest = divmod(samples, workers)
    runs_out = rest > 0 and -(-(share + 1) // size) > share
    assert largest <= size + runs_out
    assert not runs_out or size == 1


@given(samplers())
def test_the_batches_of_a_worker_differ_by_one_sample_at_most(sampler: Sampler) -> None:
    sizes = [len(batch) for batch in epoch_of(sampler, 0)]
    for worker in range(sampler.workers):
        own = sizes[worker * sampler.steps_per_epoch : (worker + 1) * sampler.steps_per_epoch]
        assert max(own) - min(own) <= 1


@given(samplers(), st.lists(st.tuples(st.integers(0, 11), st.integers(0, 60)), min_size=1, max_size=12))
def test_the_order_does_not_depend_on_what_was_asked_before(sampler: Sampler, asked: list[tuple[int, int]]) -> None:
    asked = [(worker % sampler.workers, seq) for worker, seq in asked]
    forward = [sampler.indices(*one).tolist() for one in asked]
    backward = [sampler.indices(*one).tolist() for one in reversed(asked)]
    assert forward == backward[::-1]


def test_epochs_and_seeds_differ() -> None:
    orders = [
        tuple(i for batch in epoch_of(Sampler(100, 4, 10, seed), epoch) for i in batch)
        for seed in range(3)
        for epoch in range(3)
    ]
    assert len(set(orders)) == 9
    assert tuple(range(100)) not in orders


def test_the_order_is_the_same_in_another_process_and_in_every_release() -> None:
    code = "from lambdaml.seeds import *; from lambdaml.training.sampling import *; print(derive_seed('a', 1), Sampler(10, 2, 5, 3).indices(1, 7).tolist())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    here = f"{derive_seed('a', 1)} {Sampler(10, 2, 5, 3).indices(1, 7).tolist()}"
    assert done.stdout.strip() == here
    assert here == "6920629095001669593 [5, 3, 1, 4, 7]"


def test_the_order_does_not_touch_the_global_random_stream() -> None:
    np.random.seed(5)
    expected = np.random.random()
    np.random.seed(5)
    Sampler(50, 2, 5, 0).indices(0, 3)
    assert np.random.random() == expected


@given(st.lists(st.integers() | st.text(max_size=5), max_size=4))
def test_a_derived_seed_is_one_that_every_generator_takes(parts: list[int | str]) -> None:
    assert 0 <= derive_seed(*parts) < 2**63


def test_derived_seeds_differ() -> None:
    assert len({derive_seed("step", 0, worker, seq) for worker in range(50) for seq in range(50)}) == 2500


def test_fewer_samples_than_workers_are_refused_with_both_numbers() -> None:
    with pytest.raises(SettingsError, match="3 samples.*4 workers"):
        Sampler(3, 4, 8, 0)
    assert Sampler(4, 4, 8, 0).steps_per_epoch == 1
