"""Runs begin once: what is refused before anything is written, and who goes on when several begin at once."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from torch.utils.data import IterableDataset

import lambdaml
from lambdaml.engines.inline import InlineEngine
from lambdaml.errors import JobError, LambdaMLError, RunExists, SettingsError
from lambdaml.log import keys
from lambdaml.log.snapshot import State
from lambdaml.settings import Settings
from lambdaml.storage import url
from lambdaml.training import beginning, slices
from lambdaml.training.footprint import Footprint
from tests.lambdaml.lab import Made, Tiny, TinyWide, memory, table, train


@pytest.fixture(scope="module")
def plain() -> lambdaml.Run:
    return train(workers=4, steps=10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "bps"}, "no schedule 'bps'.*'bsp'"),
        ({"schedule": "ssp"}, "needs s"),
        ({"codec": "fp8"}, "no codec 'fp8'"),
        ({"staleness": "inverted"}, "no staleness rule 'inverted'.*'inverse'"),
        ({"engine": "cloud"}, "no engine 'cloud'"),
        ({"engine": "local"}, "lives in this process"),
        ({"steps": 3, "epochs": 1}, "either steps or epochs"),
        ({"steps": 0}, "steps"),
        ({"steps": -3}, "steps"),
        ({"epochs": 0}, "epochs"),
        ({"epochs": -1}, "epochs"),
        ({"epochs": math.nan}, "epochs"),
        ({"epochs": math.inf}, "epochs"),
        ({"workers": 0}, "workers"),
        ({"workers": 65}, "64 samples.*65 workers"),
        ({"snapshot_every": -1}, "snapshot_every"),
        ({"snapshot_every": 0}, "snapshot_every"),
        ({"target": "acuracy>=0.5"}, "accuracy"),
        ({"target": "very good"}, "accuracy>=0.95"),
        ({"lease_seconds": 3}, "lease_seconds"),
        ({"max_rejected": 0}, "max_rejected"),
        ({"functions": 0}, "functions"),
        ({"schedule": "quorum:5", "workers": 4}, "quorum:5"),
    ],
    ids=str,
)
def test_a_mistake_is_refused_in_one_line_and_no_run_is_begun(options: dict[str, Any], message: str) -> None:
    store = memory()
    with pytest.raises(SettingsError, match=message) as caught:
        lambdaml.train(Tiny, store.url, **({"steps": 2} if "epochs" not in options else {}) | options)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    assert store.get(keys.RUN) is None


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        yield from table(64)


class Measured(Stream):
    def __len__(self) -> int:
        return 64


@pytest.mark.parametrize("dataset", [Stream, Measured, lambda: (x for x in ()), lambda: None])
def test_a_dataset_that_cannot_be_indexed_is_refused_before_the_run_begins(dataset: Any) -> None:
    store = memory()
    with pytest.raises(JobError, match="map-style"):
        lambdaml.train(Made(dataset=dataset), store.url, steps=2, workers=2)
    assert store.get(keys.RUN) is None


@pytest.mark.parametrize("size", [0, -8])
def test_a_batch_size_that_makes_no_sense_is_refused(size: int) -> None:
    with pytest.raises(LambdaMLError, match="batch_size") as caught:
        train(Made(batch_size=size), workers=2, steps=2)
    assert caught.value.exit_code == 2


def test_arguments_that_the_job_does_not_take_are_refused() -> None:
    with pytest.raises(JobError, match="speed"):
        train(Tiny, workers=2, steps=2, args={"speed": 9})


def test_a_run_that_stands_there_is_left_alone(plain: lambdaml.Run) -> None:
    before = {info.key: plain.store.get(info.key) for info in plain.store.list()}
    with pytest.raises(RunExists, match="resume"):
        lambdaml.train(Tiny, plain.url, workers=4, steps=3)
    assert {info.key: plain.store.get(info.key) for info in plain.store.list()} == before


@pytest.mark.parametrize("moment", ["check", "first_state"])
def test_a_run_that_began_while_ours_was_about_to_is_left_alone(moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store, usual = memory(), getattr(beginning, moment)
    theirs: list[tuple[lambdaml.TrainResult, dict[str, Any]]] = []

    def late(*arguments: Any) -> Any:
        found = usual(*arguments)
        if not theirs:
            monkeypatch.setattr(beginning, moment, usual)
            result = lambdaml.train(Tiny(lr=0.5), store.url, workers=2, steps=3, seed=7)
            theirs.append((result, {info.key: store.get(info.key) for info in store.list()}))
        return found

    monkeypatch.setattr(beginning, moment, late)
    with pytest.raises(RunExists, match="resume"):
        lambdaml.train(Tiny(lr=0.1), store.url, workers=4, steps=20, seed=1)
    ((result, objects),) = theirs
    assert result.version == 3
    assert {info.key: store.get(info.key) for info in store.list()} == objects


@pytest.mark.parametrize("who", ["train", "resume"])
def test_of_several_that_begin_at_once_one_goes_on_with_its_own_run(
    who: str, monkeypatch: pytest.MonkeyPatch, plain: lambdaml.Run
) -> None:
    """All of them stand at the last moment before run.json is written; or before the snapshot, of a run half begun."""
    store, barrier, new = memory(), Barrier(4), who == "train"
    asked = [plain.settings.model_copy(update={"seed": seed, "token": f"t{seed}"} if new else {}) for seed in range(4)]
    engine = InlineEngine()
    states = {settings.token: beginning.first_state(settings, Tiny(), engine) for settings in asked}
    if not new:
        store.create(keys.RUN, plain.settings.dump())

    def meet(settings: Settings, *_: Any) -> tuple[State, Footprint]:
        barrier.wait()
        return states[settings.token]

    def begin(settings: Settings) -> str:
        try:
            beginning.begin(store, settings, Tiny(), engine, new=new)
        except RunExists:
            return ""
        return settings.token

    monkeypatch.setattr(beginning, "first_state", meet)
    with ThreadPoolExecutor(4) as pool:
        began = [token for token in pool.map(begin, asked) if token]
    engine.close()
    token = lambdaml.Run(store).settings.token
    assert began == [token] * (1 if new else 4)
    assert {info.key for info in store.list()} == {keys.RUN, keys.snapshot(0)}
    assert store.get(keys.snapshot(0)) == states[token][0].dump()


def test_what_is_left_of_a_run_is_not_gone_on_with_as_another() -> None:
    store = memory()
    lambdaml.train(Tiny, store.url, workers=2, steps=3)
    store.delete([keys.RUN])
    with pytest.raises(RunExists, match="holds what is left of a run"):
        lambdaml.train(Tiny, store.url, workers=2, steps=3)
    assert store.get(keys.RUN) is None


@pytest.mark.parametrize(
    ("most", "options", "words"),
    [
        (30_000, {}, r"an update of this model has .* GB, and an object of memory:// at most .*: use pattern scatter"),
        (30_000, {"pattern": "scatter:4"}, r"a snapshot of this model has .* use another store"),
        (100_000, {}, ""),
    ],
)
def test_objects_that_no_request_can_put_are_refused_before_the_run(
    most: int, options: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(url.LARGEST_OBJECTS, "memory", most)
    monkeypatch.setattr(slices, "APART_BYTES", 0)
    store = memory()
    if not words:
        assert train(TinyWide, url=store.url, **options).summary().stop == "steps"
        return
    with pytest.raises(SettingsError, match=words):
        train(TinyWide, url=store.url, **options)
    assert not list(store.list())
