"""Small jobs and shorthands that the tests of the runtime share."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset

import lambdaml
from lambdaml.algorithms import ALGORITHMS, Assignment
from lambdaml.events import Event
from lambdaml.job import Job
from lambdaml.log.records import Body, Commit, Entry, Update
from lambdaml.log.snapshot import State
from lambdaml.partitions import DRAWN, IID
from lambdaml.settings import JobSettings, Settings
from lambdaml.statistics_job import StatisticsJob
from lambdaml.storage import MemoryStore, copy
from lambdaml.training.replica import Replica


def table(samples: int, features: int = 6, classes: int = 3) -> TensorDataset:
    """Points of `classes` clouds, the same on every call."""
    generator = torch.Generator().manual_seed(7)
    y = torch.arange(samples) % classes
    centres = torch.randn(classes, features, generator=generator)
    return TensorDataset(centres[y] + 0.5 * torch.randn(samples, features, generator=generator), y)


class Tiny(Job):
    """A linear model on 64 points."""

    batch_size = 8

    def __init__(self, samples: int = 64, lr: float = 0.1) -> None:
        self.samples = samples
        self.lr = lr

    def model(self) -> nn.Module:
        return nn.Linear(6, 3)

    def dataset(self) -> TensorDataset:
        return table(self.samples)

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        x, y = batch
        return nn.functional.cross_entropy(model(x), y)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=self.lr, momentum=0.9)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        x, y = self.dataset().tensors
        return {"accuracy": (model(x).argmax(1) == y).float().mean().item()}


class TinyAdam(Tiny):
    """The same with an optimizer whose state matters in every bit."""

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=self.lr / 10)


class TinyWide(Tiny):
    """A network of 10,003 parameters, for codecs that look at thousands together."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(6, 1000), nn.Tanh(), nn.Linear(1000, 3))


class TinyLarge(Tiny):
    """A network whose updates have 136 MB."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(6, 3_400_000), nn.Tanh(), nn.Linear(3_400_000, 3))


class ClassMeans(StatisticsJob):
    """The mean of each class of the same points, by the statistics of a whole pass or of some batches."""

    batch_size = 8

    def __init__(self, samples: int = 64, rate: float = 0.5) -> None:
        self.samples, self.rate = samples, rate

    def model(self) -> nn.Module:
        model = nn.Module()
        model.register_parameter("sums", nn.Parameter(torch.zeros(3, 6)))
        model.register_parameter("counts", nn.Parameter(torch.full((3,), 1 / 3)))
        return model

    def dataset(self) -> TensorDataset:
        return table(self.samples)

    def statistics(self, model: nn.Module, batch: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        x, y = batch
        chosen = nn.functional.one_hot(y, 3).float()
        return (x - self.means(model)[y]).square().sum(), {"sums": chosen.T @ x, "counts": chosen.sum(0)}

    def means(self, model: nn.Module) -> torch.Tensor:
        return model.get_parameter("sums") / model.get_parameter("counts")[:, None]

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        x, y = self.dataset().tensors
        return {"accuracy": (torch.cdist(x, self.means(model)).argmin(1) == y).float().mean().item()}


class Made(Job):
    """A job put together from functions, for tests that need one of its own."""

    def __init__(
        self,
        model: Callable[[], nn.Module] = lambda: nn.Linear(6, 3),
        optimizer: Callable[[Any], torch.optim.Optimizer] = lambda ps: torch.optim.SGD(ps, lr=0.1),
        scheduler: Callable[[torch.optim.Optimizer], Any] = lambda optimizer: None,
        loss: Callable[[nn.Module, Any], torch.Tensor] | None = None,
        dataset: Callable[[], Any] = lambda: table(64),
        evaluate: Callable[[nn.Module], Any] = lambda model: {},
        **attributes: Any,
    ) -> None:
        self.parts = (model, optimizer, scheduler, loss, dataset, evaluate)
        self.batch_size = 8
        for name, value in attributes.items():
            setattr(self, name, value)

    def model(self) -> nn.Module:
        return self.parts[0]()

    def dataset(self) -> Any:
        return self.parts[4]()

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        if self.parts[3] is not None:
            return self.parts[3](model, batch)
        x, y = batch
        return nn.functional.cross_entropy(model(x).float(), y)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return self.parts[1](model.parameters())

    def scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
        return self.parts[2](optimizer)

    def evaluate(self, model: nn.Module) -> Any:
        return self.parts[5](model)


def memory() -> MemoryStore:
    """A store of its own."""
    return MemoryStore(secrets.token_hex(6))


def train(job: Any = Tiny, **options: Any) -> lambdaml.Run:
    """Train on a fresh `memory://` store, and hand back the run."""
    url = options.pop("url", f"memory://{secrets.token_hex(6)}")
    return lambdaml.Run(lambdaml.train(job, url, **options).run)


def broken_off(job: Any = Tiny, at: int = 3, **options: Any) -> lambdaml.Run:
    """A run whose functions all vanished an hour ago, right after they had made commit number `at`."""
    url, left = f"memory://{secrets.token_hex(6)}", memory()

    def vanish(event: Event) -> None:
        if event.event == "commit" and event.commit == at:
            copy(MemoryStore(url.removeprefix("memory://")), left)

    lambdaml.train(job, url, on_event=vanish, **options)
    for key, (data, modified) in left._objects.items():
        left._objects[key] = (data, modified - 3600)
    run = lambdaml.Run(left)
    assert left.get("model.safetensors") is None
    return run


def model_bytes(run: lambdaml.Run) -> bytes:
    data = run.store.get("model.safetensors")
    assert data is not None
    return bytes(data)


def settings_of(job: Job, *, workers: int = 1, steps: int = 100, **options: Any) -> Settings:
    """Settings as `train` would resolve them."""
    from lambdaml.training.owners import DatasetSamples
    from lambdaml.training.sampling import deal

    samples, algorithm = DatasetSamples(job, job.dataset()), ALGORITHMS.make(options.get("algorithm", "gradient"))
    options.setdefault("partition", DRAWN if algorithm.duals else IID)
    seed, shares = options.get("seed", 0), options.get("clients") or workers
    sampler, sha256 = deal(options["partition"], samples, shares, job.batch_size, seed, algorithm.summands, workers)
    return Settings(
        job=JobSettings(spec="test"),
        workers=workers,
        steps=steps,
        batch_size=job.batch_size,
        samples=len(samples),
        steps_per_epoch=sampler.steps_per_epoch,
        owners_sha256=sha256,
        parameters=1,
        snapshot_every=10,
        token="t",
        **options,
    )


def replica_of(job: Any, **options: Any) -> Replica:
    return Replica(job, settings_of(job, **options))


def update_of(replica: Replica, worker: int, seq: int, **changes: Any) -> Update:
    """What `worker` would publish. Its body is its own: it does not change with the replica."""
    gradient = replica.compute(Assignment(worker, seq, seq, 1))
    fields: dict[str, Any] = {
        "worker": worker,
        "seq": seq,
        "base": gradient.base,
        "generation": 1,
        "function": "f",
        "samples": gradient.samples,
        "loss": gradient.loss,
        "codec": replica.settings.codec,
        "body": gradient.body,
    }
    update = Update(**(fields | changes))
    update.pack()
    update.size_bytes = 0
    return update


def light(worker: int, seq: int, base: int = 0, *, generation: int = 1, samples: int = 8, fault: str = "") -> Update:
    """An update without a gradient, for code that looks at headers alone."""
    body: Body = {"gradient": np.zeros(1, np.float32)}
    return Update(worker, seq, base, generation, "f", samples, 0.5, "fp32", body=body, fault=fault)


def read_back(state: State) -> State:
    """A state that was written and read, frozen parameters included."""
    found = State.load(state.dump(), "written")
    return found.over(State.load(state.base().dump(), "base")) if state.frozen else found


def round_of(replica: Replica) -> Commit:
    """Advance a replica by one synchronous round of all its workers; returns the commit."""
    log_state = replica.log_state
    workers = replica.settings.workers
    updates = {(w, log_state.next_seq[w]): update_of(replica, w, log_state.next_seq[w]) for w in range(workers)}
    entries = tuple(Entry(u.worker, u.seq, u.base, 1, u.samples, u.loss, 0, 1.0) for u in updates.values())
    commit = Commit(log_state.commit, log_state.version, (entries,))
    replica.apply(commit, updates)
    return commit


def equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    """Bitwise equality of two state dicts."""
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype
        and torch.equal(left[name].reshape(-1).view(torch.uint8), right[name].reshape(-1).view(torch.uint8))
        for name in left
    )
