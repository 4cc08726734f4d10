"""Copies of a model: what is in memory at once, in functions and in the process that starts a run."""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import lambdaml
from lambdaml.algorithms import ALGORITHMS, Assignment
from lambdaml.codecs.dense import add_to
from lambdaml.engines.inline import InlineEngine
from lambdaml.engines.resources import free_memory_bytes
from lambdaml.events import Event
from lambdaml.log import keys
from lambdaml.storage import DirectoryStore, MemoryStore, open_store
from lambdaml.training import beginning, streaming
from lambdaml.training.footprint import Footprint, outer_share, warning
from lambdaml.worker import window
from tests.lambdaml.lab import Made, Tiny, memory, model_bytes, replica_of, round_of, settings_of, table, train

MB = 2**20
SIZE = 2**20
"""Parameters of the large model here, 4 MB of them."""


class Wide(Tiny):
    """A model whose copies show."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(6, SIZE // 9), nn.Linear(SIZE // 9, 3, bias=False))


def traced(job: type[Tiny], url: str, **options: Any) -> float:
    """The most copies of the model in Python's own memory: bytes and NumPy's arrays, neither tensors nor mapped files."""
    train(workers=1, steps=1)  # what is imported late is no copy
    tracemalloc.start(1)
    try:
        lambdaml.train(job, url, engine="inline", **options)
        return tracemalloc.get_traced_memory()[1] / (4 * SIZE)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("workers", [2, 6])
def test_a_function_holds_two_updates_whatever_the_number_of_workers(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its snapshot, twice the model with momentum, stands in place of them; at the end, the result beside it."""
    monkeypatch.setattr(window, "WINDOW_BYTES", 10)
    monkeypatch.setattr(streaming, "_LARGE_BYTES", 2**16)
    copies = traced(Wide, f"file://{tmp_path}/run", workers=workers, functions=1, steps=3, snapshot_every=2)
    assert 1.9 < copies < 3.6


def test_a_small_window_changes_no_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = {schedule: model_bytes(train(Tiny, workers=3, schedule=schedule, steps=5)) for schedule in ("bsp", "ssp:0")}
    monkeypatch.setattr(window, "WINDOW_BYTES", 10)
    for schedule, wanted in plain.items():
        for functions in (1, 3):
            run = train(Tiny, workers=3, schedule=schedule, steps=5, functions=functions)
            assert model_bytes(run) == wanted


@pytest.mark.parametrize("staleness", ["dc", "nesterov", "ringleader"])
def test_rules_that_change_gradients_do_so_with_a_small_window(staleness: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window, "WINDOW_BYTES", 10)
    run = train(Tiny, workers=3, schedule="asp", staleness=staleness, steps=5, functions=3)
    assert run.verify().ok


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_sum_has_the_bits_of_the_plain_one(dtype: type) -> None:
    draw = np.random.default_rng(0)
    arrays = [draw.standard_normal(600_001).astype(dtype) for _ in range(5)]
    weights = [0.2, 1 / 3, 0.125, 0.7, 1.0]
    plain = np.empty_like(arrays[0])
    np.multiply(arrays[0], weights[0], out=plain)
    for array, weight in zip(arrays[1:], weights[1:], strict=True):
        plain += array * weight
    found = np.empty_like(arrays[0])
    for number, (array, weight) in enumerate(zip(arrays, weights, strict=True)):
        add_to(found, array, weight, fresh=not number)
    assert found.tobytes() == plain.tobytes()


def test_a_shared_state_is_the_replicas_own_memory_and_a_state_is_not() -> None:
    replica = replica_of(Tiny())
    round_of(replica)
    weight = replica.model.weight.data_ptr()
    moments = {state["momentum_buffer"].data_ptr() for state in replica.optimizer.state.values()}
    shared, own = replica.shared_state(), replica.state()
    assert shared.tensors["model/weight"].data_ptr() == weight
    assert moments <= {tensor.data_ptr() for tensor in shared.tensors.values()}
    assert not {weight, *moments} & {tensor.data_ptr() for tensor in own.tensors.values()}
    assert shared.digest() == own.digest()
    assert shared.dump(shared.digest()) == own.dump()


def test_a_replica_is_gone_when_it_is_needed_no_more() -> None:
    replica = replica_of(Tiny())
    replica.compute(Assignment(0, 0, 0, 1))
    gone, gradient = weakref.ref(replica), weakref.ref(replica.flat)
    del replica
    gc.collect()
    assert gone() is gradient() is None


def test_what_the_starter_made_is_gone_before_functions_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beginning, "MANY_PARAMETERS", 0)
    made: list[weakref.ref[nn.Module]] = []
    alive: list[int] = []

    def model() -> nn.Module:
        module = nn.Linear(6, 3)
        made.append(weakref.ref(module))
        return module

    def look(event: Event) -> None:
        if event.event == "run":
            alive.append(sum(ref() is not None for ref in made))

    job = Made(model, lambda ps: torch.optim.Adam(ps, lr=0.1), lambda o: torch.optim.lr_scheduler.StepLR(o, 1))
    lambdaml.train(job, memory(), workers=1, steps=2, on_event=look)
    assert alive == [0] and len(made) >= 4


# ---- Evaluation reads a large snapshot piece by piece.


class Ranged(MemoryStore):
    """Notes what is read whole, and damages some pieces."""

    whole: list[str]
    bad: int = 0

    def get(self, key: str) -> Any:
        self.whole.append(key)
        return super().get(key)

    def get_range(self, key: str, start: int, length: int) -> Any:
        whole = super().get(key)
        found = None if whole is None else whole[start : start + length]
        if self.bad and length > 20 and found is not None:
            self.bad -= 1
            return bytes([found[0] ^ 1]) + bytes(found[1:])
        return found


def ranged(run: lambdaml.Run) -> Ranged:
    store = Ranged.holding({info.key: (bytes(run.store.get(info.key) or b""), 0.0) for info in run.store.list()})
    assert isinstance(store, Ranged)
    store.whole = []
    return store


def loaded(store: Any, model: nn.Module, version: int = 4) -> nn.Module:
    key = keys.snapshot(version)
    assert streaming.load_model(store, key, len(MemoryStore.get(store, key) or b""), model)
    return model


def normed() -> nn.Module:
    """With buffers, and a frozen parameter."""
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    model[0].weight.requires_grad_(False)
    return model


class Normed(Made):
    def __init__(self) -> None:
        super().__init__(normed)


class Linear(Made):
    def __init__(self) -> None:
        super().__init__(lambda: nn.Linear(6, 3))


@pytest.fixture
def piecewise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "_LARGE_BYTES", 50)


@pytest.mark.usefixtures("piecewise")
@pytest.mark.parametrize("made", [Tiny, Normed])
def test_a_large_snapshot_is_read_by_ranges_into_the_model(made: Any) -> None:
    run = train(made, workers=2, steps=4, snapshot_every=2)
    store, model = ranged(run), made().model()
    loaded(store, model)
    expected = run.model().state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    assert not store.whole


@pytest.mark.usefixtures("piecewise")
def test_a_damaged_piece_is_read_again_and_what_stays_damaged_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "PAUSES_S", (0.0, 0.0))
    run = train(Tiny, workers=1, steps=4, snapshot_every=2)
    store = ranged(run)
    store.bad = 1
    model = loaded(store, Tiny().model())
    assert torch.equal(model.weight, run.model().weight)
    store.bad = 10**6
    with pytest.raises(lambdaml.LambdaMLError, match="does not match its checksum"):
        loaded(store, Tiny().model())


class Own(nn.Linear):
    """Loads in a way of its own."""

    def _load_from_state_dict(self, state: Any, prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict({name: value + 1 for name, value in state.items()}, prefix, *rest)


@pytest.mark.usefixtures("piecewise")
def test_a_module_that_loads_in_its_own_way_does_so() -> None:
    run = train(Linear, workers=1, steps=4, snapshot_every=2)
    store, model = ranged(run), Own(6, 3)
    loaded(store, model)
    assert torch.equal(model.weight, run.model().weight + 1)
    assert store.whole == [keys.snapshot(4)]


@pytest.mark.usefixtures("piecewise")
def test_a_snapshot_of_another_model_is_an_error() -> None:
    run = train(Tiny, workers=1, steps=4, snapshot_every=2)
    with pytest.raises(RuntimeError):
        loaded(ranged(run), nn.Linear(6, 4))
    assert not streaming.load_model(run.store, keys.snapshot(3), 100, Tiny().model())


def test_evaluating_a_large_snapshot_needs_no_copy_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "_LARGE_BYTES", 2**16)
    run = lambdaml.Run(lambdaml.train(Wide, f"file://{tmp_path}/run", engine="inline", workers=1, steps=2).run)
    store = DirectoryStore(tmp_path / "run")
    model, key = Wide().model(), keys.snapshot(2)
    info = store.head(key)
    assert info is not None and info.size_bytes > 8 * SIZE
    tracemalloc.start()
    try:
        assert streaming.load_model(store, key, info.size_bytes, model)
        assert tracemalloc.get_traced_memory()[1] < SIZE
    finally:
        tracemalloc.stop()
    assert torch.equal(model[0].weight, run.model()[0].weight)


# ---- What is said before a run.


def test_the_formula_of_a_function() -> None:
    found = Footprint(trained_bytes=1000 * MB, frozen_bytes=0, optimizer_bytes=1000 * MB, workers=2)
    assert found.function_bytes == (300 + 3000 + 1000 + 2000) * MB
    small = Footprint(trained_bytes=MB, frozen_bytes=10 * MB, optimizer_bytes=0, workers=1)
    assert small.function_bytes == (300 + 10 + 3 + 64) * MB
    assert small.starter_bytes == (300 + 22) * MB


@pytest.mark.parametrize(
    "options",
    [
        {"algorithm": "local:2,inner=keep"},
        {"algorithm": "local:2,outer=nesterov"},
        {"algorithm": "local:2,outer=adam", "error_feedback": 1.0},
        {"error_feedback": 0.9, "codec": "bf16"},
        {"algorithm": "local:2,fragments=2"},
        {"algorithm": "local:2,outer=nesterov,fragments=2"},
        {"algorithm": "local:2,ahead=yes", "error_feedback": 1.0},
        {"algorithm": "admm:1,steps=2"},
    ],
)
def test_what_workers_remember_is_in_the_formula(options: dict[str, Any]) -> None:
    job = Made(lambda: nn.Linear(300, 100), optimizer=lambda ps: torch.optim.Adam(ps), dataset=lambda: table(64, 300))
    engine = InlineEngine()
    _, found = beginning.first_state(settings_of(job, workers=4, **options), job, engine, functions=2)
    engine.close()
    replica = replica_of(job, **options)
    replica.update(0, 0)
    residual = found.trained_bytes if replica.parts.feedback else 0
    assert found.memory_bytes - residual == pytest.approx(replica.memories.of(0, 1).size_bytes, rel=0.01)
    displaces = options.get("algorithm") is not None
    inner = 2 * found.trained_bytes
    two = replica.algorithm.fragments > 1 or replica.algorithm.ahead
    more = (4 if replica.algorithm.duals else 2 if two else 0) * found.trained_bytes
    assert found.local_bytes == pytest.approx(found.trained_bytes + inner + more if displaces else 0, rel=0.01)
    side = 2 * found.trained_bytes + found.optimizer_bytes + found.local_bytes
    assert found.hosted == 2
    assert found.algorithm_bytes == found.local_bytes + 2 * found.memory_bytes + side


@pytest.mark.parametrize("outer, share", [("average", 0), ("nesterov", 1), ("adam", 2)])
def test_the_state_of_outer_optimizers_is_weighed(outer: str, share: int) -> None:
    assert outer_share(ALGORITHMS.make(f"local:2,outer={outer}")) == pytest.approx(share, abs=0.01)
    assert outer_share(ALGORITHMS.make("gradient")) is None


def test_error_feedback_holds_no_more_than_the_formula_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window, "WINDOW_BYTES", 10)
    options: dict[str, Any] = {"workers": 4, "functions": 1, "steps": 3, "snapshot_every": 10, "codec": "bf16"}
    plain = traced(Wide, f"file://{tmp_path}/plain", **options)
    remembering = traced(Wide, f"file://{tmp_path}/remembering", error_feedback=1.0, **options)
    assert 4 * 0.5 < remembering - plain < 4 * 2.5, "for each worker a residual, a pending vector and a body"


def test_a_run_that_does_not_fit_is_told_of_and_one_that_does_is_not() -> None:
    large = Footprint(10**9, 0, 10**9, 4)
    text = warning(large, 4, False, 16 * 10**9)
    assert "4 functions of 6.3 GB" in text and "16.0 GB are free" in text
    assert not warning(large, 1, False, 16 * 10**9)


def test_train_warns_before_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beginning, "free_memory_bytes", lambda: 10**6)
    events: list[Event] = []
    lambdaml.train(Tiny, memory(), workers=1, steps=1, on_event=events.append)
    told = [event.event for event in events]
    assert "of memory here" in next(event.text for event in events if event.event == "warning")
    assert told.index("warning") < told.index("run")


def test_free_memory_is_what_the_system_says() -> None:
    assert 2**20 < free_memory_bytes() < 2**50


def test_stores_that_a_run_opened_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    from lambdaml.storage.retry import Retrying

    counts = {"__init__": 0, "close": 0}

    def counted(name: str) -> Any:
        method = getattr(Retrying, name)

        def call(self: Retrying, *arguments: Any, **options: Any) -> Any:
            counts[name] += 1
            return method(self, *arguments, **options)

        return call

    for name in counts:
        monkeypatch.setattr(Retrying, name, counted(name))
    lambdaml.train(Tiny, "memory://closed", workers=3, functions=3, steps=3, engine="inline")
    assert counts["__init__"] == counts["close"] >= 4
    given = open_store("memory://given")
    lambdaml.train(Tiny, given, workers=1, steps=1, engine="inline")
    assert counts["__init__"] == counts["close"] + 1, "the caller's own stays open"
