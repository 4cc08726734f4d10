"""Fragments of local steps: Streaming DiLoCo (arXiv 2501.18512) as a plain loop over torch models has it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import lambdaml
from lambdaml.algorithms.fragments import Carried, divide
from lambdaml.codecs import Layout
from lambdaml.errors import SettingsError
from lambdaml.log import keys
from lambdaml.log.commits import averaged
from lambdaml.log.records import Update
from lambdaml.simulation.channel import Channel
from lambdaml.simulation.costs import measure_costs
from lambdaml.simulation.engine import VirtualRun
from lambdaml.simulation.faults import FaultScenario
from lambdaml.simulation.platform import Platform
from lambdaml.simulation.real import Timed, first_snapshot
from lambdaml.simulation.stub_replica import Costs
from lambdaml.training.replica import Replica
from lambdaml.training.sampling import Sampler
from tests.lambdaml.algorithms.plain import Client, seed_all
from tests.lambdaml.lab import Made, broken_off, equal, memory, model_bytes, settings_of, table, train

NESTEROV = "outer=nesterov:0.7,0.9"


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Dropout(0.2), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 3))


def momentum(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.01)


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.05)


def job(**parts: Any) -> Made:
    return Made(**{"model": mlp, "optimizer": momentum, "dataset": lambda: table(64)} | parts)


def dealt(sizes: Sequence[int], count: int) -> list[list[int]]:
    """The fragments, the largest parameter first, each to the fragment with the least so far."""
    fragments: list[list[int]] = [[] for _ in range(count)]
    for number in np.argsort(-np.array(sizes), kind="stable"):
        loads = [(sum(sizes[one] for one in fragment), len(fragment)) for fragment in fragments]
        fragments[loads.index(min(loads))].append(int(number))
    return fragments


def streaming(
    made: Made, workers: int, steps: int, count: int, updates: int, *, delay: int = 0, keep: bool = True, seed: int = 0
) -> Iterator[nn.Module]:
    """Yield the global model after each exchange: each of the workers has a model of its own for good, and every `steps`
    steps one fragment of it is exchanged, which arrives `delay` exchanges later."""
    sampler = Sampler(len(made.dataset()), workers, made.batch_size, seed)
    seed_all(seed, "model")
    model = made.model()
    model.train()
    trained = list(model.parameters())
    fragments = dealt([parameter.numel() for parameter in trained], count)
    outer = torch.optim.SGD(trained, lr=0.7, momentum=0.9, nesterov=True)
    clients = [Client(made, sampler, worker, seed) for worker in range(workers)]
    taken = [copy.deepcopy([parameter.detach() for parameter in trained]) for _ in clients]
    for client in clients:
        client.model.load_state_dict(model.state_dict())
    sent: list[list[list[torch.Tensor]]] = []
    for update in range(updates):
        sent.append([])
        for client, known in zip(clients, taken, strict=True):
            own = list(client.model.parameters())
            arrived = update - 1 - delay
            for number in fragments[arrived % count] if arrived >= 0 else ():
                known[number] = trained[number].detach().clone()
                own[number].data.copy_(known[number])
            if not keep:
                client.optimizer = made.optimizer(client.model)
            for step in range(update * steps, (update + 1) * steps):
                client.step(step)
            sent[-1].append([own[number].detach() - known[number] for number in fragments[update % count]])
        if update >= delay:
            exchange(trained, outer, fragments[(update - delay) % count], sent[update - delay])
        yield model
    for update in range(updates - delay, updates):
        exchange(trained, outer, fragments[update % count], sent[update])
    yield model


def exchange(
    trained: Sequence[nn.Parameter],
    outer: torch.optim.Optimizer,
    numbers: Sequence[int],
    sent: list[list[torch.Tensor]],
) -> None:
    outer.zero_grad()
    for number, *moved in zip(numbers, *sent, strict=True):
        total = torch.zeros_like(moved[0])
        for one in moved:
            total += one
        trained[number].grad = -(total / len(moved))
    outer.step()


def rounds(made: Made, algorithm: str, workers: int, updates: int) -> Iterator[tuple[Replica, list[Update]]]:
    """Yield a replica after each round of all workers, and the updates of the round."""
    replica = Replica(made, settings_of(made, workers=workers, steps=updates, algorithm=algorithm))
    for seq in range(updates):
        sent = [replica.update(worker, seq) for worker in range(workers)]
        replica.apply(averaged(seq, seq, sent), {update.id: update for update in sent})
        yield replica, sent


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


def blocks() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 64), *[nn.Linear(64, 64) for _ in range(8)], nn.Linear(64, 3))


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


def virtual(schedule: str, scenario: FaultScenario | None, made: Made) -> tuple[VirtualRun, bool]:
    """A run with real tensors in the virtual world, undisturbed or with the faults of a scenario."""
    options: dict[str, Any] = {"algorithm": f"local:4,{NESTEROV},fragments=2", "schedule": schedule}
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


def test_an_update_that_is_rejected_leaves_its_worker_where_it_was() -> None:
    """The worker takes over both fragments that moved since the update before it, and goes on from its own values of the
    third."""
    made = job()
    replica = Replica(made, settings_of(made, workers=2, steps=9, algorithm=f"local:3,{NESTEROV},fragments=3"))
    for seq in range(4):
        sent = [replica.update(worker, seq) for worker in range(2)]
        replica.apply(averaged(seq, seq, sent), {update.id: update for update in sent})
    kept = replica.memories.of(0, 4).arrays["own"].copy()
    sent = [replica.compute(replica.assign(0, 4)).update(replica.assign(0, 4), "fp32", 1, "f")]
    sent[0].fault = "gradient is not finite"
    replica.remember(sent[0])
    other = replica.update(1, 4)
    replica.apply(averaged(4, 4, [other]), {other.id: other})
    memory, layout = replica.memories.of(0, 5), replica.flat.layout
    assert np.array_equal(memory.arrays["own"], kept)
    replica.local.commit = replica.log_state.commit
    carried = Carried.resume(replica.local, replica.flat.values(), 3, memory)
    for fragment, numbers in enumerate(divide(layout, 3)):
        source = kept if fragment == 2 else replica.flat.values()
        for number in numbers:
            assert np.array_equal(carried.values[layout.spans[number]], source[layout.spans[number]])


class Branches(nn.Module):
    """Only one of the heads is reached by a batch, and never the last one."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(6, 3) for _ in range(4))
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.heads[int(x[0, 0] > 0)](x) + self.heads[2](x)


def test_a_parameter_is_absent_if_no_batch_reached_it_since_it_was_taken_over() -> None:
    made = job(model=Branches)
    unreached = {number for number, (name, _) in enumerate(Branches().named_parameters()) if "3." in name}
    started = [parameter.detach().clone() for parameter in Branches().parameters()]
    told = set()
    for replica, sent in rounds(made, f"local:4,{NESTEROV},fragments=4", 2, 12):
        for update in sent:
            fragment = set(divide(replica.flat.layout, 4)[update.seq % 4])
            absent = set(update.body["absent"].tolist()) if "absent" in update.body else set()
            assert fragment & unreached <= absent <= fragment
            vector, at = update.body["gradient"], 0
            for number in sorted(fragment):
                size = replica.flat.layout.spans[number].stop - replica.flat.layout.spans[number].start
                assert bool(vector[at : at + size].any()) == (number not in absent)
                at += size
            told |= absent
    assert told > unreached and len(started) == 8
    assert all(replica.optimizer.state_dict()["state"].get(number) is None for number in unreached)


class Words(nn.Module):
    def __init__(self, sparse: bool = True) -> None:
        super().__init__()
        self.table = nn.Embedding(500, 4, sparse=sparse)
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.table((x.abs() * 100).long().clamp(max=499)).mean(1))


def test_rows_of_embeddings_travel_within_their_fragment() -> None:
    made, dense = (
        job(model=lambda sparse=sparse: Words(sparse), optimizer=lambda ps: torch.optim.SGD(ps, lr=0.1))
        for sparse in (True, False)
    )
    plain = streaming(dense, 2, 1, 2, 6)
    for (found, sent), expected in zip(rounds(made, f"local:2,{NESTEROV},fragments=2", 2, 6), plain, strict=False):
        assert equal(dict(found.model.state_dict()), dict(expected.state_dict()))
        assert all(("r0" in update.body) == (update.seq % 2 == 0) for update in sent)
        assert max(update.body["gradient"].nbytes for update in sent) < 4 * 4 * 250


def test_an_update_of_another_fragment_is_rejected() -> None:
    made = job()
    replica = Replica(made, settings_of(made, workers=1, steps=9, algorithm="local:2,fragments=2"))
    update = replica.update(0, 0)
    assert replica.check(update) == ""
    for wrong in (
        np.array([1], np.int32),
        np.array([0], np.int64),
        np.array([0, 1], np.int32),
        np.array([9], np.int32),
    ):
        update.body["fragment"] = wrong
        assert replica.check(update) == "does not carry fragment 0 of 2"
    del update.body["fragment"]
    assert replica.check(update) == "does not carry fragment 0 of 2"
    plain = Replica(made, settings_of(made, workers=1, steps=9, algorithm="local:2"))
    update = plain.update(0, 0)
    update.body["fragment"] = np.array([0], np.int32)
    assert plain.check(update) == "does not carry fragment 0 of 1"


def test_a_residual_waits_undecayed_for_the_turn_of_its_fragment() -> None:
    made = job()
    options = {"algorithm": "local:2,fragments=2", "codec": "bf16", "error_feedback": 0.5}
    replica = Replica(made, settings_of(made, workers=1, steps=9, **options))
    held = []
    for seq in range(6):
        update = replica.update(0, seq)
        replica.apply(averaged(seq, seq, [update]), {update.id: update})
        held.append(replica.memories.of(0, seq + 1).arrays["residual"].copy())
    spans, fragments = replica.flat.layout.spans, divide(replica.flat.layout, 2)
    for seq in range(1, 6):
        for number in fragments[(seq + 1) % 2]:
            assert held[seq][spans[number]].any() and np.array_equal(
                held[seq][spans[number]], held[seq - 1][spans[number]]
            )


REFUSED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "no divisor": ({"algorithm": "local:20,fragments=3"}, ["3 fragments do not divide 20 steps"]),
    "none": ({"algorithm": "local:20,fragments=0"}, ["fragments must be 1 or more, not 0"]),
    "auto": ({"algorithm": "local:auto,fragments=2"}, ["'local:20,fragments=4'"]),
    "epochs": ({"algorithm": "local:epochs=1,fragments=2"}, ["'local:20,fragments=4'"]),
    "asp": ({"algorithm": "local:4,fragments=2", "schedule": "asp"}, ["'local:4,fragments=2'", "'asp'", "bsp"]),
    "ssp": ({"algorithm": "local:4,fragments=2", "schedule": "ssp:2"}, ["'ssp:2'", "pipeline"]),
    "quorum": ({"algorithm": "local:4,fragments=2", "schedule": "quorum:2"}, ["'quorum:2'", "same one"]),
    "a long pipeline": (
        {"algorithm": "local:4,fragments=2", "schedule": "pipeline:2"},
        ["'pipeline:2'", "more than 2"],
    ),
    "scatter": ({"algorithm": "local:4,fragments=2", "pattern": "scatter"}, ["'scatter'", "gather or tree"]),
    "a rule with momentum": (
        {"algorithm": "local:4,fragments=2", "staleness": "nesterov"},
        ["'nesterov'", "'local:4,fragments=2'", "whole model"],
    ),
    "few parameters": ({"algorithm": "local:14,fragments=7"}, ["7 fragments", "only 6"]),
    "few updates": ({"algorithm": "local:4,fragments=4", "steps": 3}, ["4 fragments", "only 3"]),
    "few epochs": ({"algorithm": "local:4,fragments=4", "epochs": 1}, ["4 fragments", "only 3"]),
    "codec": ({"algorithm": "local:6,fragments=6", "codec": "powersgd:2"}, ["'powersgd:2'", "saves nothing"]),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_makes_no_sense_is_refused_in_one_line(what: str) -> None:
    options, words = REFUSED[what]
    store = memory()
    with pytest.raises(SettingsError) as caught:
        lambdaml.train(job(), store, workers=3, **{"steps": 9, **options} if "epochs" not in options else options)
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value), caught.value
    assert [info.key for info in store.list("")] == []
