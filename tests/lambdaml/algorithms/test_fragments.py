"""Runs with fragments: they have the bits of a plain loop, whoever computes them and whatever becomes of the functions."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import lambdaml
from lambdaml.algorithms.fragments import divide
from lambdaml.codecs import Layout
from lambdaml.log import keys
from lambdaml.simulation.channel import Channel
from lambdaml.simulation.costs import measure_costs
from lambdaml.simulation.engine import VirtualRun
from lambdaml.simulation.faults import FaultScenario
from lambdaml.simulation.platform import Platform
from lambdaml.simulation.real import Timed, first_snapshot
from lambdaml.simulation.stub_replica import Costs
from tests.lambdaml.algorithms.streaming import NESTEROV, adam, blocks, dealt, job, mlp, rounds, streaming
from tests.lambdaml.lab import Made, broken_off, equal, model_bytes, settings_of, train


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("workers", [1, 3, 4])
def test_it_is_a_plain_loop_over_models_that_are_exchanged_in_parts_bit_for_bit(workers: int, count: int) -> None:
    """11 exchanges are no multiple of the fragments, and three workers have uneven batches."""
    algorithm = f"local:{3 * count},{NESTEROV},fragments={count}"
    for made in (job(), job(optimizer=adam, clip_norm=0.5)):
        plain = streaming(made, workers, 3, count, 11)
        for (replica, _), expected in zip(rounds(made, algorithm, workers, 11), plain, strict=False):
            assert equal(dict(replica.model.state_dict()), dict(expected.state_dict())), replica.version
        assert replica.version == 11


@pytest.mark.parametrize(("delay", "count"), [(1, 2), (1, 4), (2, 3)])
def test_a_pipeline_exchanges_a_fragment_while_the_next_steps_are_taken(delay: int, count: int) -> None:
    """What a worker did to the fragment meanwhile is gone, as with torchft's `fragment_update_alpha` of 0."""
    *_, expected = streaming(job(), 3, 2, count, 9, delay=delay)
    options = {"algorithm": f"local:{2 * count},{NESTEROV},fragments={count}", "schedule": f"pipeline:{delay}"}
    for functions in (1, 3):
        run = train(job(), workers=3, steps=9, functions=functions, **options)
        assert equal(dict(lambdaml.Run(run.store, job()).model().state_dict()), dict(expected.state_dict()))
        assert lambdaml.Run(run.store, job()).verify(deep=1.0).faults == []


@pytest.mark.parametrize("options", ["", ",inner=keep", ",outer=adam,weights=equal", f",{NESTEROV}"])
def test_one_fragment_has_the_bits_of_plain_local_steps(options: str) -> None:
    plain, one = (rounds(job(), f"local:3{options}{more}", 3, 5) for more in ("", ",fragments=1"))
    for (expected, sent), (found, same) in zip(plain, one, strict=True):
        assert equal(dict(found.model.state_dict()), dict(expected.model.state_dict()))
        assert [sorted(update.body) for update in sent] == [sorted(update.body) for update in same]


def test_the_inner_optimizer_begins_anew_where_it_is_not_kept() -> None:
    plain = streaming(job(optimizer=adam), 2, 2, 3, 7, keep=False)
    found = rounds(job(optimizer=adam), f"local:6,{NESTEROV},inner=anew,fragments=3", 2, 7)
    for (replica, _), expected in zip(found, plain, strict=False):
        assert equal(dict(replica.model.state_dict()), dict(expected.state_dict()))


def test_an_update_leaves_all_other_parameters_and_their_momentum_alone() -> None:
    fragments = dealt([parameter.numel() for parameter in mlp().parameters()], 3)
    before: dict[int, Any] = {}
    for replica, _ in rounds(job(), f"local:3,{NESTEROV},fragments=3", 2, 7):
        state = replica.optimizer.state_dict()["state"]
        now = {
            number: (parameter.detach().clone(), copy.deepcopy(state.get(number)))
            for number, parameter in enumerate(replica.model.parameters())
        }
        for number, (value, kept) in before.items():
            moved = number in fragments[(replica.version - 1) % 3]
            assert torch.equal(now[number][0], value) != moved
            assert kept is None or torch.equal(now[number][1]["momentum_buffer"], kept["momentum_buffer"]) != moved
        before = now


def test_parameters_are_dealt_by_size_and_like_layers_are_strided() -> None:
    generator = np.random.default_rng(1)
    for _ in range(200):
        sizes, count = generator.integers(1, 1000, generator.integers(1, 30)).tolist(), int(generator.integers(1, 8))
        fragments = divide(Layout(tuple((size,) for size in sizes)), count)
        assert fragments == [sorted(fragment) for fragment in dealt(sizes, count)]
        assert sorted(number for fragment in fragments for number in fragment) == list(range(len(sizes)))
        assert all(fragments) or len(sizes) < count
        best = max(sum(sizes) / count, max(sizes))  # nobody does better
        assert max(sum(sizes[one] for one in each) for each in fragments) <= best + max(sizes)
    assert divide(Layout(((8, 8), (8,)) * 4), 2) == [[0, 1, 4, 5], [2, 3, 6, 7]]


@pytest.mark.parametrize("codec", ["fp32", "bf16", "int8", "topk:0.1"])
def test_an_update_has_a_fraction_of_the_bytes(codec: str) -> None:
    sizes = {}
    for count in (1, 2, 4):
        run = train(job(model=blocks), workers=2, steps=8, algorithm=f"local:4,fragments={count}", codec=codec)
        found = [info.size_bytes for info in run.store.list(keys.UPDATES)]
        sizes[count] = [size - 600 for size in found]  # without the header
        assert len(found) == 16
    for count in (2, 4):
        for size in sizes[count]:
            assert size == pytest.approx(np.mean(sizes[1]) / count, rel=0.05)


def test_what_is_measured_and_assumed_for_simulations_is_a_fraction_too() -> None:
    made = job(model=blocks)
    sizes = [
        measure_costs(made, settings_of(made, workers=2, algorithm=f"local:4,fragments={count}")).update_bytes
        for count in (1, 4)
    ]
    assert sizes[1] - 600 == pytest.approx((sizes[0] - 600) / 4, rel=0.05)
    whole, part = (
        lambdaml.simulate(workers=4, steps=40, algorithm=f"local:8{more}", channel="s3-standard", snapshot_every=40)
        for more in ("", ",fragments=4")
    )
    assert part.run.bytes["received"] == pytest.approx(whole.run.bytes["received"] / 4, rel=0.05)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pattern": "tree:2"},
        {"bracket": "2"},
        {"codec": "bf16"},
        {"codec": "topk:0.2"},
        {"codec": "sign"},
        {"codec": "powersgd:2"},
        {"codec": "significant:0.01"},
        {"codec": "bf16", "error_feedback": 0.9, "schedule": "pipeline:1"},
        {"keep": 8, "snapshot_every": 1},
        {"recover_s": 1e-9},
        {"schedule": "pipeline:1", "pattern": "tree:4", "recover_s": 1e-9},
    ],
    ids=lambda options: " ".join(map(str, options.values())) or "gather",
)
def test_whoever_computes_it_a_run_has_the_same_bits_and_verifies(options: dict[str, Any]) -> None:
    made, options = job(model=blocks), {"algorithm": f"local:4,{NESTEROV},fragments=2", **options}
    alone = train(made, workers=4, steps=6, functions=1, **options)
    assert lambdaml.Run(alone.store, made).verify(deep=1.0).faults == []
    for functions in (2, 4):
        shared = train(made, workers=4, steps=6, functions=functions, **options)
        assert model_bytes(shared) == model_bytes(alone)
        assert lambdaml.Run(shared.store, made).verify(deep=1.0).faults == []


def test_a_tree_has_the_bits_of_its_bracket_and_its_sums_hold_one_fragment() -> None:
    made, algorithm = job(model=blocks), f"local:4,{NESTEROV},fragments=4"
    tree = train(made, workers=4, steps=6, functions=4, algorithm=algorithm, pattern="tree:2", keep="all")
    flat = train(made, workers=4, steps=6, functions=4, algorithm=algorithm, bracket="2^2")
    assert model_bytes(tree) == model_bytes(flat)
    numbers = sum(parameter.numel() for parameter in blocks().parameters())
    sums = [info.size_bytes for info in tree.store.list(keys.REDUCED)]
    assert sums and max(sums) < 1.2 * 4 * numbers / 4


@pytest.mark.parametrize("schedule", ["bsp", "pipeline:1"])
@pytest.mark.parametrize("codec", ["fp32", "topk:0.2"])
def test_a_run_that_broke_off_goes_on_with_the_same_bits(codec: str, schedule: str) -> None:
    options: dict[str, Any] = {"workers": 4, "steps": 9, "schedule": schedule, "codec": codec, "snapshot_every": 2}
    options["algorithm"] = f"local:6,{NESTEROV},fragments=3"
    made = job(optimizer=adam)
    for functions in (1, 4):
        left = broken_off(made, at=5, functions=functions, **options)
        lambdaml.resume(left.store, job=made)
        assert model_bytes(left) == model_bytes(train(made, **options))
        assert lambdaml.Run(left.store, made).verify(deep=1.0).faults == []


def virtual(
    schedule: str, scenario: FaultScenario | None, made: Made, algorithm: str = f"local:4,{NESTEROV},fragments=2"
) -> tuple[VirtualRun, bool]:
    """A run with real tensors in the virtual world, undisturbed or with the faults of a scenario."""
    options: dict[str, Any] = {"algorithm": algorithm, "schedule": schedule}
    settings = settings_of(made, workers=3, steps=5, lease_s=4.0, recover_s=0.3, **options)
    settings = settings.model_copy(update={"snapshot_every": 2, "patience_s": 300.0})
    costs = Costs(step_s=0.1, apply_s=0.001)
    faults = (
        {} if scenario is None else {"injector": scenario, "fault_plan": scenario.fault_plan, "seed": scenario.seed}
    )
    run = VirtualRun(
        *(settings, 2, costs, Channel.parse("s3-express"), Platform.parse("local")),
        machine=lambda run, world: Timed(made, settings, costs, world.charge, world.now),
        start=first_snapshot(made, settings),
        **faults,
    )
    return run, run.run(10_000.0)


@pytest.mark.parametrize("schedule", ["bsp", "pipeline:1"])
def test_a_run_under_faults_has_the_bits_of_the_undisturbed_run(schedule: str) -> None:
    """Functions are killed and stand still, requests fail, and living functions are taken for dead."""
    made = job()
    calm, ended = virtual(schedule, None, made)
    assert ended and calm.bucket.get(keys.MODEL)
    deaths = 0
    for seed in range(25):
        scenario = replace(FaultScenario.draw(seed, schedule), crash=0.7, lie=0.3, spare=0.3, turns=200)
        found, ended = virtual(schedule, scenario, made)
        assert ended, seed
        assert found.bucket.get(keys.MODEL) == calm.bucket.get(keys.MODEL), seed
        deaths += sum(life.outcome == "killed" for life in found.lives)
    assert deaths > 25
