"""`extra=per-sample:N`: the gradients of single samples in objects of their own, which disturb nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

import lambdaml
from lambdaml.codecs import CODECS, Layout, UpdateContext
from lambdaml.errors import BadObject, SettingsError
from lambdaml.log import keys
from lambdaml.log.extra import read_extra
from lambdaml.options import RunOptions
from lambdaml.parts import Parts
from lambdaml.schedules import SCHEDULES
from lambdaml.simulation.channel import Channel
from lambdaml.simulation.engine import VirtualRun
from lambdaml.simulation.platform import Platform
from lambdaml.simulation.stub_replica import Costs
from lambdaml.training.history_room import warnings_of_room
from lambdaml.training.owners import DatasetSamples
from lambdaml.training.sampling import sampler_of
from tests.lambdaml.lab import Made, Tiny, broken_off, memory, model_bytes, settings_of, table, train
from tests.lambdaml.worker.test_kills import Killer
from tests.lambdaml.worker.test_kills import train as train_killed

FEDAVG: dict[str, Any] = {"workers": 3, "steps": 4, "algorithm": "local:2", "partition": "dirichlet:1"}


class Counting(nn.Module):
    """Counts forward passes in a buffer, and scales by it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        return x * (1 + 0.01 * self.passes)


def dropping() -> Made:
    """A network with dropout, a buffer that each pass changes, random input, and clipping."""

    def noisy(model: nn.Module, batch: Any) -> torch.Tensor:
        x, y = batch
        return nn.functional.cross_entropy(model(x + 0.1 * torch.randn_like(x) + np.random.rand()), y)

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 8), Counting(), nn.Dropout(0.3), nn.Linear(8, 3))

    return Made(
        model, lambda parameters: torch.optim.Adam(parameters, lr=0.01), loss=noisy, clip_norm=0.5, scheduler=halving
    )


def halving(optimizer: torch.optim.Optimizer) -> Any:
    return torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)


@pytest.mark.parametrize("schedule", ["bsp", "cohort:2"])
@pytest.mark.parametrize("make", [Tiny, dropping])
def test_a_run_that_measures_has_the_bits_of_one_that_does_not(make: Callable[[], Any], schedule: str) -> None:
    options = {**FEDAVG, "workers": 5, "schedule": schedule}
    plain, measured = (train(make(), **options, **more) for more in ({}, {"extra": "per-sample:5"}))
    assert model_bytes(plain) == model_bytes(measured)
    made = [info.key.removeprefix(keys.UPDATES) for info in measured.store.list(keys.UPDATES)]
    assert [info.key.removeprefix(keys.EXTRA_OBJECTS) for info in measured.store.list(keys.EXTRA_OBJECTS)] == made
    assert not list(plain.store.list(keys.EXTRA_OBJECTS))


@pytest.mark.parametrize("codec", ["fp32", "bf16"])
def test_each_gradient_is_that_of_its_sample_at_the_parameters_before_the_step(codec: str) -> None:
    run = train(Tiny, extra=f"per-sample:5,codec={codec}", **FEDAVG)
    sampler = sampler_of(run.settings, DatasetSamples(Tiny(), table(64)))
    for seq in range(4):
        found, model = read_extra(run.store, 1, seq), run.model(seq).train()
        assert (found.worker, found.seq, found.client, found.first_batch) == (1, seq, 1, 2 * seq)
        optimizer = Tiny().optimizer(model)
        for step in range(2):
            for sample, gradient in zip(found.samples[step], found.gradients[step], strict=True):
                due = plain_gradient(model, [sample])
                near = {"rel": 1e-5, "abs": 1e-7} if codec == "fp32" else {"rel": 2.0**-7, "abs": 1e-7}
                assert gradient == pytest.approx(due if codec == "fp32" else through_bf16(due), **near)
            plain_gradient(model, sampler.dealt(1, 2 * seq + step).tolist())
            optimizer.step()


def plain_gradient(model: nn.Module, samples: list[int]) -> NDArray[np.float32]:
    x, y = table(64).tensors
    model.zero_grad()
    nn.functional.cross_entropy(model(x[samples]), y[samples]).backward()
    return torch.cat([parameter.grad.reshape(-1) for parameter in model.parameters()]).numpy()  # type: ignore[union-attr]


def through_bf16(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    bf16, layout = CODECS.make("bf16"), Layout.flat(vector.size)
    return bf16.values(bf16.encode(vector, layout, UpdateContext()), layout)


def test_samples_are_the_clients_own_without_a_double_and_drawn_anew_for_each_step() -> None:
    run = train(Tiny, extra="per-sample:6", schedule="cohort:2", **{**FEDAVG, "workers": 5, "steps": 20})
    sampler = sampler_of(run.settings, DatasetSamples(Tiny(), table(64)))
    seen: dict[int, set[tuple[int, ...]]] = {}
    for worker, seq in map(keys.update_id, [info.key for info in run.store.list(keys.EXTRA_OBJECTS)]):
        found = read_extra(run.store, worker, seq)
        share = sampler.share(worker, seq)
        assert found.client == share.number and found.samples.shape == (2, min(6, share.samples))
        own = set(sampler.samples_of_pass(found.client, 0).tolist())
        for drawn in found.samples.tolist():
            assert len(set(drawn)) == len(drawn) and set(drawn) <= own
            seen.setdefault(found.client, set()).add(tuple(drawn))
    assert max(map(len, seen.values())) > 10


def looking() -> Made:
    """A job whose loss looks at a value, so that samples cannot be computed side by side."""

    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        found = nn.functional.cross_entropy(model(batch[0]), batch[1])
        return found if found.item() > 0 else -found

    return Made(loss=loss)


def test_gradients_that_cannot_be_computed_side_by_side_are_computed_one_by_one() -> None:
    runs = [train(make(), extra="per-sample:9", **FEDAVG) for make in (Made, looking)]
    together, alone = (read_extra(run.store, 2, 3) for run in runs)
    assert np.array_equal(together.samples, alone.samples)
    assert alone.gradients == pytest.approx(together.gradients, rel=1e-5, abs=1e-7)


def test_dropout_of_a_sample_is_drawn_anew_for_each_step_and_the_same_again() -> None:
    again = [train(dropping(), extra="per-sample:99", **FEDAVG) for _ in range(2)]
    first, second = (read_extra(run.store, 0, 1) for run in again)
    assert first.gradients.tobytes() == second.gradients.tobytes()
    assert first.gradients.dtype == np.float32 and np.isfinite(first.gradients).all()
    assert not np.array_equal(np.sort(first.gradients[0], axis=0), np.sort(first.gradients[1], axis=0))


def test_gradients_in_double_precision_stay_so_and_have_no_bf16() -> None:
    job = Made(
        lambda: nn.Linear(6, 3, dtype=torch.float64),
        loss=lambda model, batch: nn.functional.cross_entropy(model(batch[0].double()), batch[1]),
    )
    assert read_extra(train(job, extra="per-sample:2", **FEDAVG).store, 0, 0).gradients.dtype == np.float64
    with pytest.raises(SettingsError, match="float64"):
        train(job, extra="per-sample:2,codec=bf16", **FEDAVG)


def test_history_stays_until_it_is_unpinned_and_then_goes_with_its_updates() -> None:
    options = {**FEDAVG, "steps": 40, "snapshot_every": 2, "keep": 8}
    run, free = train(Tiny, extra="per-sample:3", **options), train(Tiny, **options)
    assert len(list(run.store.list(keys.EXTRA_OBJECTS))) == len(list(run.store.list(keys.UPDATES))) == 3 * 40
    assert len(list(free.store.list(keys.UPDATES))) < 3 * 40
    assert run.gc() == 0
    run.unpin("extra")
    assert run.gc() > 2 * 3 * 40 and not list(run.store.list(keys.EXTRA_OBJECTS))


def test_a_run_that_is_unpinned_deletes_as_it_goes_on() -> None:
    run = broken_off(Tiny, 5, extra="per-sample:3", **{**FEDAVG, "steps": 60, "snapshot_every": 2, "keep": 8})
    run.unpin("extra")
    lambdaml.resume(run.store)
    left = [info.key.removeprefix(keys.EXTRA_OBJECTS) for info in run.store.list(keys.EXTRA_OBJECTS)]
    assert left == [info.key.removeprefix(keys.UPDATES) for info in run.store.list(keys.UPDATES)]
    assert 0 < len(left) < 3 * 30 and run.verify(deep=1).faults == []


def test_a_deep_check_finds_what_is_not_measured_again() -> None:
    run = train(Tiny, extra="per-sample:3", **FEDAVG)
    report = run.verify(deep=1)
    assert report.faults == [] and report.recomputed == 12
    key = keys.extra(1, 2)
    data = bytearray(run.store.get(key) or b"")
    data[-1] ^= 1
    run.store.put(key, bytes(data))
    run.store.delete([keys.extra(2, 0)])
    named = [f"{keys.extra(2, 0)} is not what is measured again", f"{key} is not what is measured again"]
    assert sorted(run.verify(deep=1).faults) == sorted(named)
    with pytest.raises(BadObject, match=key):
        read_extra(run.store, 1, 2)


def test_functions_are_killed_and_measure_the_same(tmp_path: Path) -> None:
    killer, options = Killer(6, seed=2), {"algorithm": "local:2", "steps": 20, "extra": "per-sample:4"}
    killed = train_killed(f"file://{tmp_path}/run?latency=5ms", killer, functions=2, **options)
    alone = train_killed(f"memory://{tmp_path.name}", functions=1, **options)
    assert killer.done == 6 and killed.model_sha256 == alone.model_sha256
    one, other = lambdaml.Run(f"file://{tmp_path}/run").store, lambdaml.Run(alone.run).store
    measured = [info.key for info in other.list(keys.EXTRA_OBJECTS)]
    assert [info.key for info in one.list(keys.EXTRA_OBJECTS)] == measured and len(measured) == 4 * 20
    assert all(bytes(one.get(key) or b"") == bytes(other.get(key) or b"") for key in measured)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"algorithm": "gradient"}, "'gradient' sends no displacements"),
        ({"algorithm": "local:2,sends=models"}, "sends no displacements"),
        ({"algorithm": "local:2,inner=keep"}, "remember something"),
        ({"algorithm": "local:auto"}, "remember something"),
        ({"algorithm": "local:2,ahead=yes,outer=sum"}, "own model"),
        ({"codec": "topk:0.1"}, "'topk:0.1'"),
        ({"schedule": "asp"}, "'asp'"),
        ({"schedule": "pipeline:1"}, "'pipeline:1'"),
        ({"schedule": "quorum:2"}, "'quorum:2'"),
        ({"extra": "per-sample:0"}, "samples must be 1 or more"),
        ({"extra": "per-sample:3,codec=int8"}, "codec must be fp32 or bf16"),
        ({"extra": "per-simple:3"}, "did you mean 'per-sample'"),
    ],
)
def test_what_it_does_not_go_with_is_refused_in_a_line(options: dict[str, Any], words: str) -> None:
    store = memory()
    with pytest.raises(SettingsError, match=words) as caught:
        train(Tiny, url=store.url, **{**FEDAVG, "extra": "per-sample:3", **options})
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)
    assert not list(store.list(""))


def test_each_schedule_takes_it_or_is_refused_by_name() -> None:
    fitting = set()
    for name in [*SCHEDULES.variants(4), "bsp", "ssp:0", "cohort:2", "pipeline:0"]:
        try:
            Parts.of(RunOptions(workers=4, schedule=name, algorithm="local:2", extra="per-sample:3"))
            fitting.add(name)
        except SettingsError as error:
            assert repr(name) in str(error)
    assert fitting == {"bsp", "ssp:0", "cohort:2", "pipeline:0"}


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(3), nn.BatchNorm1d(3, track_running_stats=False)])
def test_batch_norm_is_refused(layer: nn.Module) -> None:
    with pytest.raises(SettingsError, match=r"'per-sample:3'.*GroupNorm"):
        train(Made(lambda: nn.Sequential(nn.Linear(6, 3), layer)), extra="per-sample:3", **FEDAVG)


def test_float16_is_refused_and_bfloat16_measured() -> None:
    with pytest.raises(SettingsError, match="use bfloat16"):
        train(Made(autocast="float16"), extra="per-sample:3", **FEDAVG)
    assert train(Made(autocast="bfloat16"), extra="per-sample:3", **FEDAVG).summary().stop == "steps"


def test_what_is_kept_counts_where_room_is_short() -> None:
    job = Tiny()
    settings = settings_of(job, workers=4, steps=10_000, algorithm="local:5", keep_bytes=2**20)
    measured = settings.model_copy(update={"extra": "per-sample:50", "parameters": 10_000})
    assert list(warnings_of_room(settings, 10**9)) == []
    (warning,) = warnings_of_room(measured, 10**9)
    one = 5 * 16 * (8 + 4 * 10_000)  # a worker owns 16 samples
    assert f"may take {(4 * one + 16 * 10_000) * 10_000 / 1e9:,.1f} GB" in warning


def test_the_virtual_world_writes_an_object_of_that_size_before_each_update() -> None:
    settings = settings_of(Tiny(), workers=3, steps=4, algorithm="local:2", extra="per-sample:5")
    settings = settings.model_copy(update={"parameters": 1000})
    given = (3, Costs(step_s=0.01), Channel.parse("10ms"), Platform.parse("local"))
    virtual, plain = VirtualRun(settings, *given), VirtualRun(settings.model_copy(update={"extra": None}), *given)
    virtual.run(), plain.run()
    written = [key for key in virtual.bucket.objects if key.startswith(keys.EXTRA_OBJECTS)]
    assert len(written) == 12 and virtual.bucket.size_bytes(written[0], b"") == 2 * 5 * (8 + 4 * 1000)
    assert virtual.kernel.now > plain.kernel.now
