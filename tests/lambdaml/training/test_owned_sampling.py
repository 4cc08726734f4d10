"""Samples that have owners, and cohorts: who computes from which samples, and when."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import Dataset, TensorDataset

import lambdaml
from lambdaml.errors import JobError, SettingsError
from lambdaml.schedules.cohort import Cohorts, Turns
from lambdaml.training.owners import DatasetSamples
from lambdaml.training.sampling import OwnedSampler, Sampler
from tests.lambdaml.lab import Made, Tiny, memory, settings_of, table


@st.composite
def owned(draw: st.DrawFn) -> OwnedSampler:
    workers = draw(st.integers(1, 6))
    rest = draw(st.lists(st.integers(0, workers - 1), max_size=80))
    return OwnedSampler(np.array([*range(workers), *rest]), workers, draw(st.integers(1, 12)), draw(st.integers(0, 3)))


@given(owned(), st.integers(0, 3))
def test_a_pass_holds_each_of_a_workers_samples_once_and_batches_are_no_larger_than_asked(
    sampler: OwnedSampler, turn: int
) -> None:
    seen: list[int] = []
    for worker in range(sampler.workers):
        share = sampler.share(worker, 0)
        batches = range(turn * share.batches, (turn + 1) * share.batches)
        dealt = [sampler.indices(worker, batch).tolist() for batch in batches]
        assert sum(map(len, dealt)) == share.samples
        assert max(map(len, dealt)) - min(map(len, dealt)) <= 1
        assert [len(batch) for batch in dealt] == [sampler.count(worker, batch) for batch in batches]
        seen += [index for batch in dealt for index in batch]
    assert sorted(seen) == list(range(sampler.samples))


def test_batches_have_the_size_of_the_run_and_passes_differ() -> None:
    sampler = OwnedSampler(np.array([0] * 90 + [1] * 10), 2, 10, 0)
    assert {sampler.count(worker, batch) for worker in (0, 1) for batch in range(20)} == {10}
    assert (sampler.share(0, 0).batches, sampler.share(1, 0).batches) == (9, 1)
    assert sampler.steps_per_epoch == 5, "so many rounds of 20 samples have 100"
    assert len({tuple(sampler.indices(1, seq).tolist()) for seq in range(5)}) == 5


@given(st.integers(1, 60), st.data())
def test_a_cohort_is_a_set_of_workers_in_order_and_a_function_of_seed_and_round(
    workers: int, data: st.DataObject
) -> None:
    slots, turn = data.draw(st.integers(1, workers)), data.draw(st.integers(0, 1000))
    members = list(Cohorts(workers, slots, 5).members(turn))
    assert members == sorted(set(members)) and len(members) == slots
    assert 0 <= members[0] and members[-1] < workers
    assert members == list(Cohorts(workers, slots, 5).members(turn))
    if slots == workers:
        assert members == list(range(workers))


def test_each_pair_of_workers_is_equally_likely() -> None:
    """Chi-square of 6,000 rounds over the 15 pairs of six workers: 14 degrees of freedom, 36.1 at the level 0.001."""
    cohorts = Cohorts(6, 2, 0)
    counts: dict[tuple[int, ...], int] = {}
    for turn in range(6000):
        pair = tuple(cohorts.members(turn))
        counts[pair] = counts.get(pair, 0) + 1
    assert len(counts) == 15
    assert sum((count - 400) ** 2 / 400 for count in counts.values()) < 36.1


def test_the_latest_turn_is_the_one_that_a_plain_search_finds() -> None:
    settings = settings_of(Tiny(), workers=3, clients=7, schedule="cohort:3")
    cohorts, turns = Cohorts(7, 3, settings.seed), Turns(settings)
    for turn in (0, 1, 5, 20, 4, 21):  # also backwards
        for slot, worker in enumerate(cohorts.members(turn)):
            before = [(t, list(cohorts.members(t))) for t in range(turn) if worker in cohorts.members(t)]
            expected = (before[-1][1].index(worker), before[-1][0]) if before else None
            assert turns.latest(slot, turn) == expected
    written = [(slot, turn + 1) for turn in range(20) for slot in range(3)]
    doomed = set(turns.superseded(written, 15))
    for slot, seq in written:
        worker = cohorts.members(seq - 1)[slot]
        again = any(worker in cohorts.members(turn) for turn in range(seq, 15))
        assert ((slot, seq) in doomed) == (seq <= 15 and again)


def test_a_slot_computes_from_the_share_of_the_worker_that_takes_it() -> None:
    plain, cohort = Sampler(100, 10, 5, 0), Sampler(100, 10, 5, 0, slots=3)
    members = Cohorts(10, 3, 0).members(4)
    assert [cohort.share(slot, 4) for slot in range(3)] == [plain.share(worker, 4) for worker in members]
    assert cohort.steps_per_epoch == round(plain.steps_per_epoch * 10 / 3)


@pytest.mark.parametrize("options", [{}, {"codec": "topk:0.1"}, {"algorithm": "local:3,inner=keep"}])
def test_a_cohort_of_all_workers_is_bsp_bit_for_bit(options: dict[str, str]) -> None:
    runs = [
        lambdaml.train(Tiny, memory().url, workers=4, steps=6, schedule=schedule, engine="inline", **options)
        for schedule in ("bsp", "cohort:4")
    ]
    assert runs[0].model_sha256 == runs[1].model_sha256


def test_federated_averaging_is_a_plain_loop() -> None:
    """Each round three of eight workers make a pass over their own samples, and the mean counts a worker by these."""
    job = Tiny()
    job_options = {"workers": 8, "schedule": "cohort:3", "partition": "dirichlet:0.5", "algorithm": "local:epochs=1"}
    run = lambdaml.Run(lambdaml.train(Tiny, memory().url, steps=5, batch_size=4, engine="inline", **job_options).run)
    samples = DatasetSamples(job, job.dataset())
    from lambdaml.training.sampling import owners_of

    sampler = OwnedSampler(owners_of("dirichlet:0.5", samples, 8, 0), 8, 4, 0)
    cohorts, (x, y) = Cohorts(8, 3, 0), job.dataset().tensors
    model = run.model(0).train()
    for turn in range(5):
        begin = [parameter.detach().clone() for parameter in model.parameters()]
        total, moved = 0, [torch.zeros_like(parameter) for parameter in begin]
        for worker in cohorts.members(turn):
            share = sampler.share(worker, turn)
            with torch.no_grad():
                for parameter, value in zip(model.parameters(), begin, strict=True):
                    parameter.copy_(value)
            optimizer = job.optimizer(model)
            for batch in range(turn * share.batches, (turn + 1) * share.batches):
                numbers = sampler.indices(worker, batch).tolist()
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x[numbers]), y[numbers]).backward()
                optimizer.step()
            total += share.samples
            for place, parameter, value in zip(moved, model.parameters(), begin, strict=True):
                place += share.samples * (parameter.detach() - value)
        with torch.no_grad():
            for parameter, value, place in zip(model.parameters(), begin, moved, strict=True):
                parameter.copy_(value + place / total)
    for found, expected in zip(run.model().parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert run.verify(deep=1).faults == []


class Written(Dataset[dict[str, torch.Tensor]]):
    """Samples that are mappings, of three writers."""

    def __init__(self) -> None:
        self.x, self.y = table(30).tensors

    def __len__(self) -> int:
        return 30

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"x": self.x[index], "y": self.y[index], "writer": torch.tensor(index % 3)}


class Targets(TensorDataset):
    """A data set that says its classes."""

    targets = torch.arange(60)


class Own(Tiny):
    """A job that deals its samples itself: worker 0 has most."""

    def partition(self, workers: int) -> list[int]:
        return [max(0, number - 64 + workers) for number in range(64)]


def test_classes_come_from_the_data_set_or_from_the_jobs_batches() -> None:
    x, y = table(60).tensors
    assert DatasetSamples(Tiny(), TensorDataset(x, y)).labels().tolist() == y.tolist()
    assert DatasetSamples(Tiny(), Targets(x, y)).labels().tolist() == list(range(60))

    class Batches(Tiny):
        def labels(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
            return batch["y"]

    assert DatasetSamples(Batches(), Written()).labels().tolist() == Written().y.tolist()
    with pytest.raises(JobError, match=r"write Tiny\.labels\(batch\)"):
        DatasetSamples(Tiny(), TensorDataset(x, x)).labels()


def test_a_field_is_an_attribute_of_the_data_set_or_a_key_of_its_items() -> None:
    assert DatasetSamples(Tiny(), Written()).field("writer").tolist() == [index % 3 for index in range(30)]
    assert DatasetSamples(Tiny(), Targets(*table(60).tensors)).field("targets").tolist() == list(range(60))
    with pytest.raises(SettingsError, match="no list 'site' of 30 values"):
        DatasetSamples(Tiny(), Written()).field("site")


def test_a_job_that_deals_its_samples_is_dealt_like_that() -> None:
    run = lambdaml.Run(lambdaml.train(Own, memory().url, workers=3, steps=4, engine="inline").run)
    assert run.settings.partition == "job"
    assert [entry.samples for entry in next(iter(run.log())).entries] == [7, 1, 1]
    assert run.status().owners_sha256 == run.settings.owners_sha256 != ""
    assert run.verify(deep=1).faults == []
    other = lambdaml.train(Own, memory().url, workers=3, steps=4, partition="iid", engine="inline")
    assert lambdaml.Run(other.run).settings.owners_sha256 == ""


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ([0] * 63, "must return 64 whole numbers"),
        ([0.0] * 64, "must return 64 whole numbers"),
        ([0] * 63 + [3], "gives sample 63 to worker 3, which is none"),
        ([0] * 64, "leaves worker 1 and 1 more of 3 without samples"),
    ],
)
def test_owners_that_make_no_sense_are_refused(made: list[int], said: str) -> None:
    class Wrong(Tiny):
        def partition(self, workers: int) -> list[int]:
            return made

    with pytest.raises((JobError, SettingsError), match=said):
        lambdaml.train(Wrong(), memory().url, workers=3, steps=2, engine="inline")


def test_other_data_than_the_run_began_with_are_refused_by_name() -> None:
    store, options = memory(), {"workers": 4, "partition": "sorted", "engine": "inline"}
    lambdaml.train(Made(), store.url, steps=2, **options)
    other = Made(dataset=lambda: TensorDataset(*(tensor.flip(0) for tensor in table(64).tensors)))
    with pytest.raises(SettingsError, match="partition 'sorted' gives these samples other owners"):
        lambdaml.Run(store.url, job=other).replay(1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"schedule": "cohort:5"}, "takes 5 workers a round, and there are 4"),
        ({"schedule": "cohort:2", "algorithm": "presum:2"}, "adds up the gradients of several workers"),
        ({"schedule": "cohort:2", "algorithm": "local:auto"}, "compares the speeds of workers"),
        ({"schedule": "cohort:2", "algorithm": "local:4,fragments=2"}, "sends parts of the model in turn"),
        ({"schedule": "cohort:2", "codec": "topk:0.1", "staleness": "inverse"}, "cannot know later"),
        ({"schedule": "cohort:2,asp"}, "cohort takes size, not 'asp'"),
        ({"schedule": "cohort:0"}, "size must be 1 or more"),
    ],
)
def test_what_does_not_go_with_cohorts_is_refused_by_name(options: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        lambdaml.train(Tiny, memory().url, workers=4, steps=2, engine="inline", **options)
