"""The replica: gradients, commits and state, against a plain PyTorch loop."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, OneCycleLR, SequentialLR, StepLR
from torch.utils.data import default_collate

from lambdaml.algorithms import Assignment
from lambdaml.errors import BadObject, JobError
from lambdaml.log.records import Commit, Entry
from lambdaml.seeds import derive_seed
from lambdaml.training.replica import Replica
from lambdaml.training.sampling import Sampler
from tests.lambdaml.lab import Made, Tiny, equal, read_back, replica_of, round_of, train, update_of

STEPS = 12


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(6, 6)
        self.two = nn.Linear(6, 6)
        self.two.weight = self.one.weight
        self.out = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.two(self.one(x).tanh()))


def frozen() -> nn.Module:
    model = mlp()
    for parameter in model[0].parameters():
        parameter.requires_grad_(False)
    return model


def trainable(parameters: Any) -> list[nn.Parameter]:
    return [parameter for parameter in parameters if parameter.requires_grad]


def double_loss(model: nn.Module, batch: Any) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch[0].double()), batch[1])


def brain_loss(model: nn.Module, batch: Any) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch[0].bfloat16()).float(), batch[1])


def one_cycle(optimizer: torch.optim.Optimizer) -> OneCycleLR:
    return OneCycleLR(optimizer, max_lr=0.2, total_steps=40)


def sequential(optimizer: torch.optim.Optimizer) -> SequentialLR:
    parts = [LinearLR(optimizer, 0.1, total_iters=4), CosineAnnealingLR(optimizer, T_max=20)]
    return SequentialLR(optimizer, parts, milestones=[4])


def momentum(parameters: Any) -> SGD:
    return SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3)


JOBS: dict[str, Callable[[], Made]] = {
    "sgd with momentum": lambda: Made(mlp, momentum),
    "adam": lambda: Made(mlp, lambda ps: Adam(ps, lr=0.01)),
    "adamw, clipped, cosine, dropout": lambda: Made(
        mlp, lambda ps: AdamW(ps, lr=0.02), lambda o: CosineAnnealingLR(o, T_max=STEPS), clip_norm=0.5
    ),
    "one cycle": lambda: Made(mlp, momentum, one_cycle),
    "a sequence of schedules": lambda: Made(mlp, momentum, sequential),
    "a schedule by epochs": lambda: Made(
        mlp, momentum, lambda o: StepLR(o, 1, gamma=0.5), scheduler_interval="epoch", batch_size=16
    ),
    "batch norm": lambda: Made(normed, momentum),
    "bfloat16 autocast": lambda: Made(mlp, momentum, autocast="bfloat16"),
    "double precision": lambda: Made(lambda: mlp().double(), momentum, loss=double_loss),
    "bfloat16 parameters": lambda: Made(lambda: mlp().bfloat16(), momentum, loss=brain_loss),
    "frozen parameters": lambda: Made(frozen, lambda ps: Adam(trainable(ps), lr=0.01)),
    "frozen parameters in the optimizer": lambda: Made(frozen, lambda ps: Adam(ps, lr=0.01)),
    "tied weights": lambda: Made(Tied, lambda ps: Adam(ps, lr=0.01)),
}


def seed(*parts: int | str) -> None:
    torch.manual_seed(derive_seed(*parts))


def batches(job: Made, workers: int, seq: int) -> list[list[int]]:
    sampler = Sampler(len(job.dataset()), workers, job.batch_size, 0)
    return [sampler.indices(worker, seq).tolist() for worker in range(workers)]


def plain_loop(job: Made, steps: int) -> nn.Module:
    """What a user would write: one process, the same batches, the same seeds."""
    dataset = job.dataset()
    seed(0, "model")
    model = job.model().train()
    optimizer = job.optimizer(model)
    scheduler = job.scheduler(optimizer)
    per_epoch = Sampler(len(dataset), 1, job.batch_size, 0).steps_per_epoch
    for seq in range(steps):
        (indices,) = batches(job, 1, seq)
        batch = default_collate([dataset[i] for i in indices])
        seed("update", 0, 0, seq)
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=job.autocast == "bfloat16"):
            loss = job.loss(model, batch)
        loss.backward()
        if job.clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), job.clip_norm)
        optimizer.step()
        if scheduler is not None and (job.scheduler_interval == "step" or (seq + 1) % per_epoch == 0):
            scheduler.step()
    return model


def exactly(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor], names: Any = None) -> list[str]:
    """Names whose bits differ."""
    return [name for name in names or left if not equal({name: left[name]}, {name: right[name]})]


@pytest.mark.parametrize("name", list(JOBS))
def test_one_worker_gives_the_bits_of_a_plain_loop(name: str) -> None:
    job = JOBS[name]()
    run = train(job, workers=1, steps=STEPS)
    from safetensors.torch import load

    found = load(bytes(run.store.get("model.safetensors") or b""))
    assert exactly(plain_loop(job, STEPS).state_dict(), found) == []


def reference(job: Made, workers: int, steps: int) -> nn.Module:
    """The mean of the workers' gradients, weighted by their samples, summed in order by NumPy and divided once."""
    dataset = job.dataset()
    seed(0, "model")
    model = job.model().train()
    optimizer = job.optimizer(model)
    for seq in range(steps):
        shares = batches(job, workers, seq)
        total = sum(map(len, shares))
        means: list[Any] = []
        for worker, indices in enumerate(shares):
            seed("update", 0, worker, seq)
            optimizer.zero_grad()
            job.loss(model, default_collate([dataset[i] for i in indices])).backward()
            weight = len(indices) / job.batch_size
            grads = [(p.grad.numpy() if p.grad is not None else np.zeros(p.shape)) * weight for p in model.parameters()]
            means = [mean + grad for mean, grad in zip(means, grads, strict=True)] if means else grads
        for parameter, mean in zip(model.parameters(), means, strict=True):
            parameter.grad = torch.from_numpy(mean.astype(np.float32) / np.float32(total / job.batch_size))
        if job.clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), job.clip_norm)
        optimizer.step()
    return model


@pytest.mark.parametrize("functions", [1, 2])
@pytest.mark.parametrize("clip_norm", [None, 0.1])
def test_four_workers_give_the_bits_of_a_loop_on_the_mean_of_their_gradients(
    clip_norm: float | None, functions: int
) -> None:
    from safetensors.torch import load

    from tests.lambdaml.lab import table

    job = Made(mlp, lambda ps: Adam(ps, lr=0.01), dataset=lambda: table(61), clip_norm=clip_norm)
    assert len({len(share) for share in batches(job, 4, 0)}) == 2
    run = train(job, workers=4, steps=STEPS, functions=functions)
    found = load(bytes(run.store.get("model.safetensors") or b""))
    assert exactly(reference(job, 4, STEPS).state_dict(), found) == []


def test_equal_workers_on_equal_shares_compute_the_gradient_of_the_whole_batch() -> None:
    job = Made(lambda: nn.Linear(6, 3).double(), lambda ps: SGD(ps, lr=0.1), loss=double_loss)
    replica = replica_of(job, workers=4)
    round_of(replica)
    seed(0, "model")
    model = job.model()
    whole = default_collate([job.dataset()[i] for share in batches(job, 4, 0) for i in share])
    optimizer = job.optimizer(model)
    job.loss(model, whole).backward()
    optimizer.step()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(replica.model.state_dict()[name], tensor, rtol=1e-13, atol=1e-15)


def test_batch_norm_averages_are_the_mean_of_the_workers_and_count_rounds() -> None:
    job = JOBS["batch norm"]()
    replica = replica_of(job, workers=4)
    for _ in range(3):
        before = copy.deepcopy(replica.model)
        after = []
        for worker, share in enumerate(batches(job, 4, replica.log_state.commit)):
            model = copy.deepcopy(before)
            seed("update", 0, worker, replica.log_state.commit)
            job.loss(model, default_collate([job.dataset()[i] for i in share]))
            after.append(model.state_dict())
        round_of(replica)
        now = replica.model.state_dict()
        for name in ("1.running_mean", "1.running_var"):
            mean = torch.stack([state[name].double() for state in after]).mean(0)
            torch.testing.assert_close(now[name].double(), mean, rtol=1e-6, atol=1e-7)
        assert now["1.num_batches_tracked"] == before.state_dict()["1.num_batches_tracked"] + 1
    assert replica.model.state_dict()["1.num_batches_tracked"] == 3


class Drifting(nn.Module):
    """Buffers of every kind that change in every forward pass."""

    def __init__(self, persistent: bool = True) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)
        self.norm = nn.BatchNorm1d(6)
        self.spectral = nn.utils.spectral_norm(nn.Linear(3, 3))
        self.register_buffer("calls", torch.tensor(0))
        self.register_buffer("flag", torch.tensor(False))
        self.register_buffer("narrow", torch.zeros(3, dtype=torch.float16))
        self.register_buffer("wide", torch.zeros(3, dtype=torch.float64))
        self.register_buffer("scratch", torch.zeros(3), persistent=persistent)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.flag.fill_(True)
        y = self.spectral(self.linear(self.norm(x))) + self.scratch
        with torch.no_grad():
            for buffer in (self.narrow, self.wide, self.scratch):
                buffer += y.mean(0).to(buffer.dtype)
        return y


def everything(replica: Replica) -> dict[str, torch.Tensor]:
    held = {f"parameter/{name}": p.detach().clone() for name, p in replica.model.named_parameters()}
    return held | {f"buffer/{name}": b.clone() for name, b in replica.model.named_buffers()}


@pytest.mark.parametrize("name", [*JOBS, "drifting", "drifting, in part not in the state dict"])
def test_computing_a_gradient_leaves_the_state_as_it_was(name: str) -> None:
    job = Made(lambda: Drifting(name == "drifting"), momentum) if name.startswith("drifting") else JOBS[name]()
    replica = replica_of(job, workers=2)
    round_of(replica)
    state, held = replica.state().digest(), everything(replica)
    first = update_of(replica, 0, 1)
    assert replica.state().digest() == state
    assert exactly(held, everything(replica)) == []
    replica.compute(Assignment(1, 1, 1, 1))
    again = update_of(replica, 0, 1)
    assert {key: part.tobytes() for key, part in first.body.items()} == {
        key: part.tobytes() for key, part in again.body.items()
    }
    assert (first.loss, first.base, first.samples) == (again.loss, again.base, again.samples)


@pytest.mark.parametrize("name", JOBS)
def test_a_replica_that_loads_a_snapshot_goes_on_like_the_one_it_was_taken_from(name: str) -> None:
    whole = replica_of(JOBS[name](), workers=2)
    for _ in range(5):
        round_of(whole)
    resumed = replica_of(JOBS[name](), workers=2)
    resumed.compute(Assignment(1, 3, 3, 1))
    resumed.load(read_back(whole.state()))
    assert resumed.state().digest() == whole.state().digest()
    for _ in range(6):
        round_of(whole)
        round_of(resumed)
        assert resumed.state().digest() == whole.state().digest()
    assert resumed.version == 11


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda ps: SGD(ps, lr=0.1),
    "amsgrad": lambda ps: Adam(ps, lr=0.01, amsgrad=True),
    "rmsprop": lambda ps: torch.optim.RMSprop(ps, lr=0.01, momentum=0.5, centered=True),
    "adagrad": lambda ps: torch.optim.Adagrad(ps, lr=0.01),
    "adadelta": lambda ps: torch.optim.Adadelta(ps),
    "nadam": lambda ps: torch.optim.NAdam(ps, lr=0.01),
    "radam": lambda ps: torch.optim.RAdam(ps, lr=0.01),
    "rprop": lambda ps: torch.optim.Rprop(ps, lr=0.01),
    "asgd": lambda ps: torch.optim.ASGD(ps, lr=0.01),
    "foreach": lambda ps: Adam(ps, lr=0.01, foreach=True),
    "fused": lambda ps: Adam(ps, lr=0.01, fused=True),
    "two groups": lambda ps: SGD([{"params": [p], "lr": 0.1 / (i + 1)} for i, p in enumerate(ps)], lr=0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_goes_on_after_a_snapshot_bit_for_bit(name: str) -> None:
    whole, resumed = (replica_of(Made(mlp, OPTIMIZERS[name])) for _ in range(2))
    for _ in range(3):
        round_of(whole)
    resumed.load(read_back(whole.state()))
    for _ in range(3):
        round_of(whole)
        round_of(resumed)
    assert resumed.state().digest() == whole.state().digest()


def test_a_snapshot_does_not_share_memory_with_the_replica() -> None:
    replica = replica_of(JOBS["adam"]())
    round_of(replica)
    state = replica.state()
    digest = state.digest()
    round_of(replica)
    assert state.digest() == digest


def test_the_snapshot_of_another_model_is_refused() -> None:
    state = replica_of(JOBS["adam"]()).state()
    with pytest.raises(JobError, match="not the one the snapshot is of"):
        replica_of(Tiny()).load(state)


def test_a_model_without_anything_to_train_is_refused() -> None:
    with pytest.raises(JobError, match="no parameters"):
        replica_of(Made(lambda: nn.Linear(6, 3).requires_grad_(False), lambda ps: SGD([torch.zeros(1)], lr=0.1)))


class Masked(nn.Module):
    """As transformers do: a causal mask of minus infinity among the buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)
        self.register_buffer("mask", torch.full((6, 6), -math.inf).triu(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x @ self.mask.softmax(-1))


def test_a_buffer_that_holds_infinity_and_never_changes_does_no_harm() -> None:
    replica = replica_of(Made(Masked), workers=2)
    assert replica.check(update_of(replica, 0, 0)) == ""
    round_of(replica)
    assert torch.equal(replica.model.state_dict()["mask"], torch.full((6, 6), -math.inf).triu(1))


def test_a_flag_that_the_forward_pass_sets_is_set_and_one_it_clears_is_cleared() -> None:
    class Flags(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 3)
            self.register_buffer("ready", torch.tensor(False))
            self.register_buffer("fresh", torch.tensor(True))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.ready.fill_(True)
            self.fresh.fill_(False)
            return self.linear(x)

    replica = replica_of(Made(Flags), workers=2)
    round_of(replica)
    flags = replica.model.state_dict()
    assert (bool(flags["ready"]), bool(flags["fresh"])) == (True, False)


def test_a_commit_that_does_not_follow_the_replica_is_refused() -> None:
    replica = replica_of(Tiny())
    with pytest.raises(BadObject, match="from version 3"):
        replica.apply(Commit(3, 3, ()), {})


def test_applying_up_to_a_version_inside_a_group_commit_stops_there() -> None:
    replica, stepped = replica_of(Tiny(), workers=3), replica_of(Tiny(), workers=3)
    updates = {(w, 0): update_of(replica, w, 0) for w in range(3)}
    entries = [Entry(u.worker, u.seq, 0, 1, u.samples, u.loss, n, 1.0) for n, u in enumerate(updates.values())]
    commit = Commit(0, 0, tuple((entry,) for entry in entries))
    replica.apply(commit, updates, until=2)
    assert replica.version == 2
    for number, entry in enumerate(entries[:2]):
        stepped.apply(Commit(number, number, ((entry,),)), updates)
    assert equal(replica.model.state_dict(), stepped.model.state_dict())


def test_weights_multiply_gradients_and_averages_in_the_order_of_the_commit() -> None:
    replica = replica_of(JOBS["batch norm"](), workers=3)
    updates = {(w, 0): update_of(replica, w, 0) for w in range(3)}
    before = replica.model.state_dict()["1.running_mean"].clone()
    weights = [0.5, 0.25, 0.125]
    step = tuple(Entry(w, 0, 0, 1, 8, 0.5, 0, weight) for w, weight in zip((2, 0, 1), weights, strict=True))
    replica.apply(Commit(0, 0, (step,)), updates)
    expected = np.zeros(replica.flat.size, np.float32)
    size = replica.settings.batch_size
    for entry in step:
        expected += updates[entry.worker, 0].body["gradient"] * np.float32(entry.weight * (8 / size))
    expected /= np.float32(24 / size)
    flat = torch.cat([p.grad.reshape(-1) for p in replica.model.parameters() if p.grad is not None])
    assert flat.numpy().tobytes() == expected.tobytes()
    moved = (replica.model.state_dict()["1.running_mean"] - before).numpy()
    after = {w: updates[w, 0].body["b0"].reshape(-1).view(np.float32) for w in range(3)}
    change = np.zeros(len(moved), np.float32)
    for entry in step:
        change += (after[entry.worker] - before.numpy()) * np.float32(entry.weight * (8 / 24))
    assert (before.numpy() + change - before.numpy()).tobytes() == moved.tobytes()
