"""What every partition with owners must do: each sample has one, by seed and data alone, and nobody is left out. A new one takes one
file and one line in `PARTITIONS`: see `tests/parts/stratified.py`.

pytest -p mine --partition mine:3 tests/lambdaml/partitions/test_conformance.py    # one of your own, in mine.py
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from torch.utils.data import TensorDataset

import lambdaml
from lambdaml.errors import SettingsError
from lambdaml.partitions import PARTITIONS, Owners, demand_owners, digest_of
from lambdaml.seeds import random_state
from tests.lambdaml.lab import Tiny, memory

PINNED = {
    "sorted": "d0d3fc4b9367",
    "skew:0.5": "e3f05ccb308b",
    "skew:0": "615f82613e96",
    "dirichlet:0.5": "2012eb35fbda",
    "shards:2": "007e684283fe",
    "by:writer": "176394e95eb7",
    "job": "56a8f679e97c",
}


@pytest.fixture(params=[*PINNED, "stratified"])
def partition(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(PARTITIONS.factories, "stratified", "tests.parts.stratified:Stratified")
    return str(request.param)


class Table:
    """Samples of four classes, 40 to 100 of each, of 30 writers."""

    def __init__(self, seed: int = 0) -> None:
        draw = np.random.RandomState(seed)
        self.classes = draw.permutation(np.repeat(np.arange(4), [40, 60, 80, 100]))
        self.writers = draw.randint(0, 30, len(self.classes))

    def __len__(self) -> int:
        return len(self.classes)

    def labels(self) -> NDArray[np.int64]:
        return self.classes.astype(np.int64)

    def field(self, name: str) -> NDArray[np.int64]:
        return np.unique(self.writers, return_inverse=True)[1].astype(np.int64)

    def owners(self, workers: int) -> Owners:
        return (np.arange(len(self)) % workers).astype(np.int64)


def owners(spec: str, workers: int = 7, seed: int = 3, samples: Table | None = None) -> Owners:
    return PARTITIONS.make(spec).owners(samples or Table(), workers, random_state("partition", seed))


def test_every_partition_of_the_registry_is_tried() -> None:
    assert {spec.partition(":")[0] for spec in PINNED} | {"iid"} == set(PARTITIONS.factories)


def test_each_sample_has_one_owner_and_each_worker_a_sample(partition: str) -> None:
    found = owners(partition)
    assert (found.dtype, found.shape) == (np.int64, (len(Table()),))
    assert set(found.tolist()) == set(range(7))
    demand_owners(partition, found, 7)


def test_it_is_a_function_of_seed_and_data_and_leaves_the_global_stream_alone(partition: str) -> None:
    np.random.seed(5)
    expected = np.random.random()
    np.random.seed(5)
    assert digest_of(owners(partition)) == digest_of(owners(partition))
    assert np.random.random() == expected


def test_a_run_is_dealt_like_that_and_verifies(partition: str) -> None:
    class Own(Tiny):
        def partition(self, workers: int) -> list[int]:
            return [number % workers for number in range(self.samples)]

        def dataset(self) -> TensorDataset:
            data = super().dataset()
            data.writer = list(range(self.samples))
            return data

    done = lambdaml.train(Own(), memory().url, workers=3, steps=4, partition=partition, engine="inline")
    report = lambdaml.Run(done.run, Own()).verify(deep=1)
    assert (report.faults, report.recomputed) == ([], 12)


@pytest.mark.parametrize("drawn", ["skew:0.5", "skew:0", "dirichlet:0.5", "shards:2"])
def test_what_is_drawn_depends_on_the_seed(drawn: str) -> None:
    assert digest_of(owners(drawn)) != digest_of(owners(drawn, seed=4))


@pytest.mark.parametrize("found", ["sorted", "skew:0.5", "dirichlet:0.5", "shards:2", "by:writer"])
def test_what_goes_by_the_data_depends_on_the_data(found: str) -> None:
    assert digest_of(owners(found)) != digest_of(owners(found, samples=Table(1)))


def test_the_digest_is_pinned() -> None:
    """A run's data must be dealt in the same way by every release."""
    assert {spec: digest_of(owners(spec))[:12] for spec in PINNED} == PINNED


def test_sorted_gives_each_worker_a_run_of_the_classes() -> None:
    table, found = Table(), owners("sorted")
    sizes = np.bincount(found)
    assert sizes.max() - sizes.min() <= 1
    for worker in range(6):
        assert table.classes[found == worker].max() <= table.classes[found == worker + 1].min()


def test_skew_sorts_that_share_of_each_workers_samples() -> None:
    """With two equal classes and two workers, a worker has (1 + share) / 2 of its samples from one of them."""
    table = Table()
    table.classes = np.arange(2000) % 2
    for share in (0.0, 0.2, 0.8, 1.0):
        found = owners(f"skew:{share}", workers=2, samples=table)
        assert np.mean(table.classes[found == 0] == 0) == pytest.approx((1 + share) / 2, abs=0.03)


def test_a_small_concentration_gives_a_worker_fewer_classes() -> None:
    """The mean of the largest share that a class has of a worker falls towards that of the data as the parameter rises."""
    table, means = Table(), []
    for concentration in (0.1, 1.0, 100.0):
        largest = []
        for seed in range(10):
            found = owners(f"dirichlet:{concentration}", workers=4, seed=seed)
            largest += [np.bincount(table.classes[found == w]).max() / np.sum(found == w) for w in range(4)]
        means.append(np.mean(largest))
    assert means[0] > 0.7 > means[1] > means[2]
    assert means[2] == pytest.approx(100 / 280, abs=0.05)


def test_the_shares_of_a_class_have_the_moments_of_the_distribution() -> None:
    """Of N workers, a share has the mean 1/N and the variance (1/N)(1 - 1/N) / (N a + 1)."""
    table = Table()
    table.classes, workers, concentration = np.zeros(1000, np.int64), 4, 2.0
    shares = np.concatenate(
        [
            np.bincount(owners(f"dirichlet:{concentration}", workers, seed, table), minlength=4) / 1000
            for seed in range(400)
        ]
    )
    assert shares.mean() == pytest.approx(1 / workers)
    assert shares.var() == pytest.approx(1 / 4 * 3 / 4 / (workers * concentration + 1), rel=0.1)


def test_shards_give_a_worker_at_most_as_many_runs_of_the_sorted_samples() -> None:
    table, found = Table(), owners("shards:2")
    order = found[np.argsort(table.classes, kind="stable")]
    runs = [order[0], *order[1:][order[1:] != order[:-1]]]
    assert max(np.bincount(runs)) <= 2
    assert np.bincount(found).tolist() == [40] * 7


def test_samples_of_one_writer_have_one_owner() -> None:
    table, found = Table(), owners("by:writer")
    assert all(len(set(found[table.writers == writer].tolist())) == 1 for writer in set(table.writers.tolist()))


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("skew:1.5", "share must be from 0 to 1"),
        ("dirichlet:0", "concentration must be above 0"),
        ("shards:0", "count must be 1 or more"),
        ("skew", "needs share"),
        ("sorded", "did you mean 'sorted'"),
    ],
)
def test_senseless_parameters_are_refused(spec: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        PARTITIONS.make(spec)


def test_more_shards_or_workers_than_there_is_data_for_are_refused() -> None:
    with pytest.raises(SettingsError, match="280 samples into 300 shards"):
        owners("shards:3", workers=100)
    with pytest.raises(SettingsError, match="writer has 30 values: take 30 workers or fewer"):
        owners("by:writer", workers=31)
    with pytest.raises(SettingsError, match="leaves worker 1 and 2 more of 5 without samples"):
        demand_owners("dirichlet:0.1", np.array([0, 2, 0]), 5)
