"""The model that a function computes with: forward and backward passes over a worker's batches, and inner steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from lambdaml.algorithms import ALGORITHMS, WHOLE_MODEL, Assignment, Batch, together
from lambdaml.codecs import Layout, UpdateContext, Vector
from lambdaml.errors import SettingsError
from lambdaml.job import Job
from lambdaml.log.extra import EXTRAS
from lambdaml.log.memory import Arrays
from lambdaml.partitions import PARTITIONS
from lambdaml.seeds import derive_seed
from lambdaml.settings import Settings
from lambdaml.statistics_job import StatisticsJob
from lambdaml.training.buffers import Buffers
from lambdaml.training.calls import call, fetch, seed_streams
from lambdaml.training.flat import FlatGradient
from lambdaml.training.gradient_sum import ModelGradientSum
from lambdaml.training.inner_rates import InnerRates
from lambdaml.training.jobparts import encode_training, load_training
from lambdaml.training.loss_parts import LossParts
from lambdaml.training.owners import DatasetSamples
from lambdaml.training.per_sample import PerSampleGradients
from lambdaml.training.rows import Rows
from lambdaml.training.sampling import Sampler, sampler_of
from lambdaml.training.statistics_check import check_statistics

_MAX_LOSS_SCALE = 2.0**16
_PLAIN = (
    *(torch.float32, torch.float64, torch.float16, torch.uint8, torch.int8, torch.int32, torch.int64, torch.bool),
)
"""A memory holds tensors of these types as they are, and all others as their bytes."""


class JobModel:
    """Computes with a replica's model. It is a `lambdaml.algorithms.LocalModel`.

    Args:
        optimizer, scheduler: The job's own, of the model's parameters.
        device: The device that holds the model.
        labels: Whether passes count the labels of their samples.
        late: Whether updates may be applied to another version than the one that they were computed from.
        inner_steps: The number of local steps that a worker takes in the whole run.
        fragments: The number of fragments in which updates carry the parameters.

    Raises:
        SettingsError: If the job has a scheduler, and the run's algorithm has duals.

    Attributes:
        changed: The present values of the settings that control entries changed.
        commit: The number of commits that the parameters rest on.
        turnout: The number of times that a worker's update counts in the sum that is taken, if that is not once.
        unsent: How far the worker's own model is ahead of the base; None if it is not.
        dataset: The job's dataset, once `open` has loaded it.
        extra: Collects what is measured beside an update; None if nothing is.
    """

    def __init__(
        self,
        job: Job,
        settings: Settings,
        model: nn.Module,
        optimizer: Optimizer,
        scheduler: Any,
        *,
        device: torch.device,
        labels: bool,
        late: bool,
        inner_steps: int,
        fragments: int,
    ) -> None:
        if scheduler is not None and ALGORITHMS.make(settings.algorithm).duals:
            raise SettingsError(
                f"algorithm {settings.algorithm!r} with a scheduler: {type(job).__name__}.scheduler() returns "
                f"{type(scheduler).__name__}, and the local steps of all rounds have one learning rate: return None"
            )
        self.job, self.settings = job, settings
        self.model, self.optimizer, self.scheduler = model, optimizer, scheduler
        self.device = device
        self.buffers = Buffers(model, late=late, whole=WHOLE_MODEL in ALGORITHMS.make(settings.algorithm).gives)
        self.flat = FlatGradient(model, device)
        self.rows = Rows(model, self.flat.parameters, self.flat.layout, fragments)
        self.rates = InnerRates(optimizer, scheduler, job.scheduler_interval, settings.steps_per_epoch, inner_steps)
        self.loss_parts = LossParts(f"{type(job).__name__}.loss")
        self._sampler: Sampler | None = None
        self.dataset: Any = None
        self.changed: Mapping[str, Any] = {}
        self.commit = 0
        self.turnout: Mapping[int, float] = {}
        self.unsent: Vector | None = None
        self.extra = PerSampleGradients(EXTRAS.make(settings.extra)) if settings.extra is not None else None
        self._labels = labels
        self._absent: list[int] = []
        self._fresh: tuple[Arrays, dict[str, Any]] | None = None  # the state before the first step

    def open(self) -> None:
        """Load the dataset, if it is not loaded yet. It may draw random numbers, so this precedes their seeding."""
        if self.dataset is None:
            self.dataset = call(self.job.dataset)

    @property
    def sampler(self) -> Sampler:
        """The sampler that deals the samples to the workers. Samples that have owners are dealt when it is first asked for."""
        if self._sampler is None:
            lasting = PARTITIONS.make(self.settings.partition).lasting
            if lasting:
                self.open()
            self._sampler = sampler_of(self.settings, DatasetSamples(self.job, self.dataset) if lasting else None)
        return self._sampler

    @sampler.setter
    def sampler(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def backward(self, worker: int, batch: int) -> Batch:
        """Compute the gradient of a worker's batch, and leave it in the model and in the flat gradient."""
        if self.extra is not None:
            self.extra.add(self, worker, batch)
        kept = self.buffers.keep() if self.job.autocast == "float16" else []
        scale = _MAX_LOSS_SCALE if self.job.autocast == "float16" else 1.0
        while True:
            samples, data = self.dealt(worker, batch)
            loss, absent = self._pass(data, scale)
            if scale == 1.0 or self.flat.divide(scale):
                break
            scale /= 2.0
            self.buffers.restore(kept)
        self.loss_parts.count(samples)
        labels = self._count_labels(data) if self._labels else ()
        self._absent = absent.tolist()
        return Batch(samples, loss, absent, labels)

    def statistics(self, worker: int, batches: range) -> Batch:
        """Compute the mean of the job's statistics over some of a worker's batches, and leave it in the flat gradient.

        Raises:
            JobError: If the job's statistics are not those of its parameters, or it changed a parameter.
        """
        assert isinstance(self.job, StatisticsJob)
        named = {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        self.flat.begin()
        done = []
        for batch in batches:
            samples, data = self.dealt(worker, batch)
            with torch.no_grad():
                found = call(self.job.statistics, self.model, data)
            objective, sums = check_statistics(found, named, f"{type(self.job).__name__}.statistics")
            self.flat.add(sums)
            labels = self._count_labels(data) if self._labels else ()
            done.append(Batch(samples, objective, np.empty(0, np.int32), labels))
        total = sum(batch.samples for batch in done)
        self.flat.average(total)
        return together(done, sum(batch.loss for batch in done) / total)

    def gradient_of(self, samples: list[int], *stream: int | str) -> Vector:
        """Compute the gradient of these samples at the present parameters, and leave the buffers as they are.

        Args:
            samples: The numbers of the samples.
            stream: The name of the random streams of this computation.

        Returns:
            The flat gradient, which is valid until the next backward pass.
        """
        kept = self.buffers.keep()
        self._pass(self._fetched(samples, *stream), 1.0)
        self.buffers.restore(kept)
        return self.flat.to_host()

    def dealt(self, worker: int, batch: int) -> tuple[int, Any]:
        """Return the number of samples of a worker's batch, and the batch, with the random streams seeded for what is computed
        from it."""
        samples = self.sampler.dealt(worker, batch).tolist()
        return len(samples), self._fetched(samples, worker, batch)

    def _fetched(self, samples: list[int], *stream: int | str) -> Any:
        """Return a batch of these samples, with the random streams seeded for what is computed from it."""
        seed_streams("samples", self.settings.seed, *stream)
        data = self.moved(call(fetch, self.job, self.dataset, samples))
        seed_streams("update", self.settings.seed, *stream)
        return data

    def summing(self) -> ModelGradientSum:
        """Begin a sum of gradients that are computed from the present parameters and buffers."""
        return ModelGradientSum(self.flat, self.rows, self.buffers, self.settings.batch_size)

    def moved(self, batch: Any) -> Any:
        """Return a batch on the model's device."""
        if self.device.type == "cpu":
            return batch
        from torch.utils import _pytree

        return _pytree.tree_map_only(Tensor, lambda tensor: tensor.to(self.device), batch)

    def _pass(self, batch: Any, scale: float) -> tuple[float, NDArray[np.int32]]:
        """Return the loss, and the parameters that its gradient does not reach."""
        self.flat.begin()
        with self.autocast():
            loss = self.loss_parts.split(call(self.job.loss, self.model, batch))
        call((loss * scale if scale != 1.0 else loss).backward)
        return float(loss.detach()), self.flat.finish()

    def autocast(self) -> torch.autocast:
        """Return the context in which forward passes run."""
        dtype = {None: None, "bfloat16": torch.bfloat16, "float16": torch.float16}[self.job.autocast]
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    def _count_labels(self, batch: Any) -> tuple[int, ...]:
        labels = call(self.job.labels, batch).reshape(-1).cpu().numpy().astype(np.int64)
        return tuple(np.bincount(labels[labels >= 0]).tolist())

    def step(self, worker: int, batch: int, inner_step: int) -> None:
        """Take a step with the job's optimizer along the gradient in the model, clipped as the job says."""
        self.rates.set(inner_step, self.changed)
        self.flat.prepare(self._absent)
        if self.job.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.flat.parameters, self.job.clip_norm)
        torch.default_generator.manual_seed(derive_seed("inner", self.settings.seed, worker, batch))
        call(self.optimizer.step)
        self.flat.attach()

    def context(self, assignment: Assignment, inner_step: int, pack: Callable[[Vector], Vector]) -> UpdateContext:
        """Return what a codec may know about an update from the present version.

        Args:
            inner_step: The number of the step in the job's learning-rate schedule.
            pack: Leaves out of a flat vector what the update leaves out.
        """
        return UpdateContext(
            seed=derive_seed("codec", self.settings.seed, assignment.worker, assignment.seq),
            seq=assignment.seq,
            epoch=assignment.first_batch // self.settings.steps_per_epoch,
            rate_share=lambda: self.rates.share(inner_step, self.changed),
            weights=lambda: pack(self.flat.values()),
            changed=self.changed,
        )

    @property
    def layout(self) -> Layout:
        """The layout of flat vectors."""
        return self.flat.layout

    def values(self) -> Vector:
        """Return a copy of the trained parameters in one flat vector."""
        return self.flat.values()

    def restore(self, values: Vector) -> None:
        """Set the trained parameters to these values."""
        self.flat.restore(values)

    def pull(self, centre: Vector, strength: float) -> None:
        """Add to the gradient in the model that of `strength` / 2 times the squared distance from `centre`, which reaches
        all parameters."""
        self.flat.pull(centre, strength)
        self._absent = []

    def displace(self, start: Vector) -> None:
        """Leave in the flat gradient how far the parameters are from `start`, and set them back to `start`."""
        self.flat.displace(start)

    def hand_over(self, start: Vector) -> None:
        """Leave in the flat gradient the parameters themselves, and set them back to `start`."""
        self.flat.put(self.flat.values())
        self.flat.restore(start)

    def load_optimizer(self, arrays: Arrays, values: Mapping[str, Any] | None) -> None:
        """Load what `dump_optimizer` returned into the job's optimizer; with None, make its state anew."""
        if self._fresh is None:
            self._fresh = self.dump_optimizer()
        if values is None:
            arrays, values = self._fresh
        dtypes = values["dtypes"]
        tensors = {
            name: _tensor(array, dtypes.get(name, "")) for name, array in arrays.items() if name in values["names"]
        }
        load_training(self.optimizer, None, {"optimizer": values["state"]}, tensors)

    def dump_optimizer(self) -> tuple[Arrays, dict[str, Any]]:
        """Return the state of the job's optimizer as arrays and plain values."""
        self.rates.reset()
        tensors: dict[str, Tensor] = {}
        state, _ = encode_training(self.optimizer, None, tensors)
        arrays = {name: _array(tensor) for name, tensor in tensors.items()}
        dtypes = {
            name: str(tensor.dtype).removeprefix("torch.")
            for name, tensor in tensors.items()
            if tensor.dtype not in _PLAIN
        }
        return arrays, {"state": state, "names": sorted(arrays), "dtypes": dtypes}


def _array(tensor: Tensor) -> NDArray[Any]:
    plain = tensor if tensor.dtype in _PLAIN else tensor.reshape(*tensor.shape, 1).view(torch.uint8)
    return plain.numpy().copy()


def _tensor(array: NDArray[Any], dtype: str) -> Tensor:
    tensor = torch.from_numpy(np.array(array))
    return tensor.view(getattr(torch, dtype)).reshape(array.shape[:-1]) if dtype else tensor
