"""ADMM: it has the bits of a plain loop, whoever computes it, and its residuals are what the formulas say."""

from __future__ import annotations

import copy
import math
import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import default_collate

import lambdaml
from lambdaml.errors import SettingsError
from lambdaml.log import keys
from lambdaml.log.commits import averaged
from lambdaml.log.records import Entry, Update
from lambdaml.log.state import LogState
from lambdaml.simulation.faults import FaultScenario
from lambdaml.storage import MemoryStore
from lambdaml.training.sampling import Sampler
from tests.lambdaml.algorithms.plain import seed_all
from tests.lambdaml.algorithms.test_fragments import virtual
from tests.lambdaml.lab import Made, broken_off, equal, model_bytes, replica_of, table, train

RHO = 0.7


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.02)


def momentum(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def job(**parts: Any) -> Made:
    """A job of 61 samples, so that three workers have uneven shares."""
    return Made(**{"model": mlp, "optimizer": momentum, "dataset": lambda: table(61)} | parts)


class Plain:
    """One worker of the loop: a model x, an optimizer, and a dual variable."""

    def __init__(self, job: Made, sampler: Sampler, worker: int, z: nn.Module) -> None:
        self.job, self.sampler, self.worker = job, sampler, worker
        self.model = copy.deepcopy(z)
        self.optimizer = job.optimizer(self.model)
        self.share = len(range(worker, sampler.samples, sampler.workers))
        self.u = [torch.zeros_like(parameter) for parameter in z.parameters()]

    def update(self, z: list[torch.Tensor], begin: int, steps: int) -> list[torch.Tensor]:
        """Return x + u - z after these steps."""
        if begin:
            self.u = [u + (x.detach() - c) for u, x, c in zip(self.u, self.model.parameters(), z, strict=True)]
        dataset = self.job.dataset()
        for number in range(begin, begin + steps):
            seed_all("samples", 0, self.worker, number)
            batch = default_collate([dataset[i] for i in self.sampler.indices(self.worker, number).tolist()])
            seed_all("update", 0, self.worker, number)
            self.optimizer.zero_grad()
            self.job.loss(self.model, batch).backward()
            for x, c, u in zip(self.model.parameters(), z, self.u, strict=True):
                pull = x.detach() - (c - u)
                x.grad = RHO * pull if x.grad is None else x.grad.add_(pull, alpha=RHO)
            if self.job.clip_norm is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.job.clip_norm)
            self.optimizer.step()
        return [(x.detach() + u) - c for x, u, c in zip(self.model.parameters(), self.u, z, strict=True)]


def plain(job: Made, workers: int, steps: int, rounds: int) -> Iterator[tuple[list[torch.Tensor], float, float]]:
    """Yield z after each round, and the residuals of the round."""
    sampler = replica_of(job, workers=workers, algorithm=f"admm:{RHO}").sampler
    seed_all(0, "model")
    first = job.model()
    z = [parameter.detach().clone() for parameter in first.parameters()]
    ours = [Plain(job, sampler, worker, first) for worker in range(workers)]
    for begin in range(0, rounds * steps, steps):
        sent, before = [one.update(z, begin, steps) for one in ours], z
        if workers == 1:
            z = [c + d for c, d in zip(z, sent[0], strict=True)]
        else:
            nominal = ours[0].share
            total = [sum_of([each[i] * (one.share / nominal) for one, each in zip(ours, sent)]) for i in range(len(z))]
            z = [c + t / (len(job.dataset()) / nominal) for c, t in zip(z, total, strict=True)]
        primal = math.sqrt(sum(distance(one.model.parameters(), z) ** 2 for one in ours) / workers)
        yield z, primal, RHO * distance(z, before)


def sum_of(vectors: list[torch.Tensor]) -> torch.Tensor:
    total = vectors[0]
    for vector in vectors[1:]:
        total = total + vector
    return total


def distance(left: Any, right: Any) -> float:
    return math.sqrt(sum(float((a.detach() - b).double().square().sum()) for a, b in zip(left, right, strict=True)))


def rounds_of(made: Made, workers: int, steps: int, rounds: int) -> Iterator[Any]:
    """Yield a replica after each round."""
    replica = replica_of(made, workers=workers, steps=rounds, algorithm=f"admm:{RHO},steps={steps}")
    for seq in range(rounds):
        updates = [replica.update(worker, seq) for worker in range(workers)]
        assert [update.fault for update in updates] == [""] * workers
        replica.apply(averaged(seq, seq, updates), {update.id: update for update in updates})
        yield replica


@pytest.mark.parametrize("made", [job(), job(optimizer=adam, clip_norm=0.5)], ids=["momentum", "adam, clipped"])
@pytest.mark.parametrize("workers", [1, 3, 4])
def test_it_is_a_plain_loop_bit_for_bit(workers: int, made: Made) -> None:
    for replica, (z, _, _) in zip(rounds_of(made, workers, 5, 9), plain(made, workers, 5, 9), strict=True):
        assert all(torch.equal(p, c) for p, c in zip(replica.model.parameters(), z, strict=True)), replica.version


@pytest.mark.parametrize("functions", [1, 3])
def test_a_run_is_the_plain_loop_too_and_logs_the_residuals_of_the_round_before(functions: int) -> None:
    url = f"memory://{secrets.token_hex(6)}"
    options = {"algorithm": f"admm:{RHO},steps=5", "workers": 3, "steps": 9, "snapshot_every": 1}
    lambdaml.train(job(), url, functions=functions, **options)
    run, expected = lambdaml.Run(url, job()), list(plain(job(), 3, 5, 9))
    assert all(torch.equal(p, c) for p, c in zip(run.model().parameters(), expected[-1][0], strict=True))
    assert run.verify(deep=1.0).faults == []
    metrics = run.metrics()
    assert math.isnan(metrics[1]["primal"]) and math.isnan(metrics[1]["dual"])
    for version in range(2, 10):
        _, primal, dual = expected[version - 2]
        assert metrics[version]["primal"] == pytest.approx(primal, rel=1e-5)
        assert metrics[version]["dual"] == pytest.approx(dual, rel=1e-5)
    assert [len(entry.residuals) for entry in next(iter(run.log())).entries] == [0, 0, 0]


def test_a_residual_is_a_target() -> None:
    metrics = {}
    for target in ("primal<0.05", "dual<0.02"):
        url = f"memory://{secrets.token_hex(6)}"
        found = lambdaml.train(
            job(optimizer=lambda ps: torch.optim.SGD(ps, lr=0.1, weight_decay=0.05)),
            *(url,),
            workers=2,
            steps=300,
            snapshot_every=1,
            target=target,
            algorithm="admm:1,steps=20",
        )
        name, _, bound = target.partition("<")
        metrics = lambdaml.Run(url, job()).metrics()
        assert found.stop == "target" and metrics[found.version][name] < float(bound)
        assert all(not each[name] < float(bound) for version, each in metrics.items() if version < found.version)


def test_a_parameter_that_no_batch_reaches_is_pulled_to_the_consensus() -> None:
    """Without the pull its dual variable would grow without end."""

    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        x, y = batch
        return nn.functional.cross_entropy(model[0](x) if int(y[0]) else model[1](x), y)

    def split() -> nn.Module:
        return nn.ModuleList([nn.Linear(6, 3), nn.Linear(6, 3)])

    made = job(model=split, loss=loss, batch_size=100, optimizer=lambda ps: torch.optim.SGD(ps, lr=0.1))
    *_, replica = rounds_of(made, 4, 10, 60)
    memories = [replica.memories.of(worker, 60) for worker in range(4)]
    for memory in memories:
        assert np.abs(memory.arrays["u"]).max() < 3
    assert np.abs(sum(memory.arrays["x"] - memory.arrays["z"] for memory in memories)).max() < 0.2


@pytest.mark.parametrize(
    "options",
    [
        *({}, {"pattern": "tree:2"}, {"pattern": "scatter"}, {"bracket": "2"}, {"keep": 8, "snapshot_every": 1}),
        *({"recover_s": 1e-9}, {"error_feedback": 0.9}, {"codec": "topk:1.0"}),
    ],
    ids=lambda options: " ".join(map(str, options.values())) or "gather",
)
def test_whoever_computes_it_a_run_has_the_same_bits_and_verifies(options: dict[str, Any]) -> None:
    options = {"algorithm": "admm:1,steps=4", "workers": 4, "steps": 6, **options}
    made = job(optimizer=adam)
    alone = train(made, functions=1, **options)
    assert lambdaml.Run(alone.store, made).verify(deep=1.0).faults == []
    for functions in (2, 4):
        shared = train(made, functions=functions, **options)
        assert model_bytes(shared) == model_bytes(alone)
        assert lambdaml.Run(shared.store, made).verify(deep=1.0).faults == []


def test_a_run_that_broke_off_has_the_bits_of_one_that_did_not() -> None:
    options = {"algorithm": "admm:1", "workers": 3, "steps": 8, "snapshot_every": 3}
    whole = train(**options)
    left = broken_off(at=4, **options)
    lambdaml.resume(left.store)
    assert model_bytes(left) == model_bytes(whole)
    assert left.verify(deep=1.0).faults == []
    assert equal(left.replay(8).tensors, whole.replay(8).tensors)


def test_a_run_under_faults_has_the_bits_of_the_undisturbed_run() -> None:
    """Functions are killed and stand still, requests fail, and living functions are taken for dead."""
    made, deaths = job(optimizer=adam), 0
    calm, _ = virtual("bsp", None, made, "admm:1,steps=4")
    for seed in range(15):
        scenario = replace(FaultScenario.draw(seed, "bsp"), crash=0.7, lie=0.3, spare=0.3, turns=200)
        found, ended = virtual("bsp", scenario, made, "admm:1,steps=4")
        assert ended and found.bucket.get(keys.MODEL) == calm.bucket.get(keys.MODEL), seed
        deaths += sum(life.outcome == "killed" for life in found.lives)
    assert deaths > 15


def test_one_pass_over_the_share_is_the_default() -> None:
    sent = [
        [update.batches for update in map(read(run), keys_of(run))]
        for run in (
            train(algorithm=name, workers=2, steps=3) for name in ("admm:1", "admm:1,epochs=1", "admm:1,steps=4")
        )
    ]
    assert sent[0] == sent[1] == sent[2] and sent[0][0] == (0, 4)


def keys_of(run: lambdaml.Run) -> list[str]:
    return [info.key for info in run.store.list(keys.UPDATES)]


def read(run: lambdaml.Run) -> Callable[[str], Update]:
    return lambda key: Update.read(run.store.get(key) or b"", key)


def test_a_log_of_before_and_damaged_residuals() -> None:
    line = [0, 3, 2, 1, 8, 0.5, 0, 1.0]
    assert Entry.load(line).residuals == ()
    assert Entry.load([*line, [3, 5]]).labels == (3, 5)
    entry = Entry.load([*line, [], [0.25, 1e-9]])
    assert (entry.labels, entry.residuals, entry.dump()) == ((), (0.25, 1e-9), [*line, [], [0.25, 1e-9]])
    for wrong in ([0.5], [0.5, -1.0], ["a", 1.0], [0.5, math.inf], 3):
        with pytest.raises(TypeError, match="residuals"):
            Entry.load([*line, [], wrong])
    before = LogState(1, 5).dump()
    assert "residuals" not in before and LogState.load(before, 1, 5).residuals == ()


BAD: dict[str, tuple[dict[str, Any], list[str]]] = {
    "asp": ({"schedule": "asp"}, ["'admm:1'", "'asp'", "use bsp"]),
    "ssp": ({"schedule": "ssp:2"}, ["'admm:1'", "'ssp:2'", "use bsp"]),
    "quorum": ({"schedule": "quorum:2"}, ["'admm:1'", "'quorum:2'", "use bsp"]),
    "pipeline": ({"schedule": "pipeline:1"}, ["'admm:1'", "'pipeline:1'", "use bsp"]),
    "bf16": ({"codec": "bf16"}, ["'admm:1'", "'bf16'", "without dual variables"]),
    "topk": ({"codec": "topk:0.1"}, ["'admm:1'", "'topk:0.1'", "without dual variables"]),
    "dc": ({"staleness": "dc"}, ["'admm:1'", "'dc'", "gradients"]),
    "nesterov": ({"staleness": "nesterov"}, ["'admm:1'", "'nesterov'"]),
    "no rho": ({"algorithm": "admm"}, ["'admm'", "rho"]),
    "rho of 0": ({"algorithm": "admm:0"}, ["'admm:0'", "rho must be more than 0"]),
    "rho below 0": ({"algorithm": "admm:-1"}, ["'admm:-1'", "rho must be more than 0"]),
    "endless rho": ({"algorithm": "admm:inf"}, ["'admm:inf'", "rho must be more than 0"]),
    "steps and epochs": ({"algorithm": "admm:1,steps=3,epochs=1"}, ["steps or of epochs"]),
    "steps backwards": ({"algorithm": "admm:1,steps=-3"}, ["'admm:1,steps=-3'"]),
    "epochs backwards": ({"algorithm": "admm:1,epochs=-1"}, ["'admm:1,epochs=-1'", "epochs"]),
    "more steps than batches": ({"algorithm": "admm:1,steps=100", "epochs": 2}, ["'admm:1,steps=100'", "2 epochs"]),
}


@pytest.mark.parametrize("what", BAD)
def test_nonsense_is_refused_in_one_line_before_anything_is_started(what: str) -> None:
    options, words = BAD[what]
    store = MemoryStore(secrets.token_hex(6))
    with pytest.raises(SettingsError) as caught:
        lambdaml.train(job(), store, workers=3, **{"algorithm": "admm:1", **options})
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert all(word in message for word in words) and "\n" not in message, message
    assert [info.key for info in store.list("")] == []


def test_a_scheduler_is_refused_by_name() -> None:
    store = MemoryStore(secrets.token_hex(6))
    made = job(scheduler=lambda optimizer: lr_scheduler.StepLR(optimizer, 5))
    with pytest.raises(SettingsError, match=r"'admm:1' with a scheduler: .* StepLR"):
        lambdaml.train(made, store, workers=2, steps=2, algorithm="admm:1")
    assert [info.key for info in store.list("")] == []
