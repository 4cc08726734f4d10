"""A job says what to train, in the words that a PyTorch user already knows.

Subclass `Job`, fill in the five methods, and name the class on the command line as `path/file.py:Name` or
`package.module:Name`. The class holds no training loop: how many workers compute gradients, when the gradients are
averaged and what happens when a function dies are not the job's business.

    class Digits(Job):
        batch_size = 32

        def model(self):            return nn.Linear(64, 10)
        def dataset(self):          return TensorDataset(x, y)
        def loss(self, model, batch):
            x, y = batch
            return F.cross_entropy(model(x), y)
        def optimizer(self, model): return torch.optim.SGD(model.parameters(), lr=0.1)
        def evaluate(self, model):  return {"accuracy": ...}

| lambdaml                | Lightning                | Hugging Face Trainer |
|-------------------------|--------------------------|----------------------|
| `model`                 | `configure_model`        | `model_init`         |
| `dataset`, `batch_size` | `train_dataloader`       | `train_dataset`      |
| `loss`                  | `training_step`          | `compute_loss`       |
| `optimizer`, `scheduler`| `configure_optimizers`   | `create_optimizer`   |
| `evaluate`              | `validation_step`        | `evaluate`           |
| `clip_norm`             | `gradient_clip_val`      | `max_grad_norm`      |
| `autocast`              | `precision="bf16-mixed"` | `bf16=True`          |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from lambdaml.errors import JobError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler
    from torch.utils.data import Dataset


class Job:
    """Defines what to train. A subclass's constructor may take keyword arguments with JSON values (`--set lr=0.1`).

    Attributes:
        batch_size: The largest number of samples in an update of one worker. Each worker's share of an epoch is cut
            into equal batches, so that no sample is left over; the batches may be a little smaller than this.
        clip_norm: The greatest 2-norm of the gradient of an optimizer step; a longer gradient is scaled down to it. It
            acts on the mean over workers, where a single process would clip. None clips nothing.
        autocast: The type in which forward passes run under `torch.autocast`; `float16` adds loss scaling. None leaves
            autocast off.
        scheduler_interval: Whether the scheduler takes a step after every optimizer step or once an epoch.
    """

    batch_size: int = 32
    clip_norm: float | None = None
    autocast: Literal["bfloat16", "float16"] | None = None
    scheduler_interval: Literal["step", "epoch"] = "step"

    def model(self) -> nn.Module:
        """Return a fresh model on the CPU. The run's seed is set before the call and decides the initial weights."""
        raise NotImplementedError

    def dataset(self) -> Dataset[Any]:
        """Return the training data: a map-style dataset (`__len__`, `__getitem__`), the same on every machine."""
        raise NotImplementedError

    def loss(self, model: nn.Module, batch: Any) -> Tensor | Mapping[str, Any]:
        """Return the mean loss over a batch as a scalar tensor. The batch is on the model's device.

        It may be a dict of scalars, of which "loss" is differentiated. `lambdaml metrics` shows the others beside it.
        """
        raise NotImplementedError

    def optimizer(self, model: nn.Module) -> Optimizer:
        """Return any `torch.optim` optimizer of the model's parameters. Every replica runs it identically."""
        raise NotImplementedError

    def scheduler(self, optimizer: Optimizer) -> LRScheduler | None:
        """Return a learning-rate schedule that depends on the number of steps alone, or None for a constant rate."""
        return None

    def labels(self, batch: Any) -> Tensor:
        """Return the class numbers of a batch's samples: integers 0, 1, ... in any shape, less than 0 for no class.

        Staleness rules that compare label counts call this, and partitions by class. By default it returns the last part
        of the batch.

        Raises:
            JobError: If the last part of the batch holds no integers, so that the job must define this method.
        """
        import torch

        last = batch[-1] if isinstance(batch, list | tuple) and batch else None
        if not isinstance(last, torch.Tensor) or last.is_floating_point() or last.is_complex():
            name = type(self).__name__
            raise JobError(
                f"a staleness rule, a partition or a tuner asks for classes: write {name}.labels(batch), which gives class numbers"
            )
        return last

    def accuracy(self, model: nn.Module, batch: Any) -> tuple[int, int]:
        """Return how many of the model's answers to a batch are right, and how many there are.

        A run with a tuner judges models of workers by this, on training data, with the model in `eval()` mode and gradients
        off. By default an answer is the class of the greatest of the scores `model(batch[0])`, whose second dimension is that
        of classes, and it is right if `labels(batch)` has that class. Labels of less than 0 are not asked.

        Raises:
            JobError: If the scores do not fit the labels, so that the job must define this method.
        """
        labels = self.labels(batch)
        scores = model(batch[0])
        if scores.ndim != labels.ndim + 1 or scores.argmax(1).shape != labels.shape:
            name = type(self).__name__
            raise JobError(f"a tuner asks how accurate a model is: write {name}.accuracy(model, batch)")
        asked = labels >= 0
        return int((scores.argmax(1) == labels)[asked].sum()), int(asked.sum())

    def partition(self, workers: int) -> Sequence[int]:
        """Return the number of the worker that owns each sample: from 0 to `workers` - 1, one for each item of `dataset()`,
        the same on every machine.

        A job that defines this is dealt like this, unless the run's option `partition` says something else. A worker may
        own more samples than another, but each must own one.
        """
        raise NotImplementedError

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """Return metrics of the model by name, for instance `{"accuracy": 0.97}`.

        It is called for each snapshot, outside the workers, with the model in `eval()` mode and gradients off.
        """
        return {}

    def collate(self, samples: Sequence[Any]) -> Any:
        """Make a batch of samples. By default `torch.utils.data.default_collate` does it."""
        from torch.utils.data import default_collate

        return default_collate(list(samples))
