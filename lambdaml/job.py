"""A job: what to train, in the words a PyTorch user already has.

Subclass `Job`, fill in the five methods, and name it on the command line as `path/file.py:Name` or
`package.module:Name`. The class holds no training loop: how many workers compute gradients, when they are averaged
and what happens when one dies is not the job's business.

    class Digits(Job):
        batch_size = 32

        def model(self):            return nn.Linear(64, 10)
        def dataset(self):          return TensorDataset(x, y)
        def loss(self, model, batch):
            x, y = batch
            return F.cross_entropy(model(x), y)
        def optimizer(self, model): return torch.optim.SGD(model.parameters(), lr=0.1)
        def evaluate(self, model):  return {"accuracy": ...}

| here                    | Lightning                | Hugging Face Trainer |
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
    """What to train. Subclasses may take keyword arguments with JSON values (`--set lr=0.1`).

    Attributes:
        batch_size: samples per update of one worker, at most. An epoch's shard is cut into equal batches, so that no
            sample is left over; they may be a little smaller.
        clip_norm: if set, the gradient of each optimizer step is scaled down to this 2-norm at most. It acts on the
            mean over workers, where a single process would clip.
        autocast: if set, forward passes run under `torch.autocast` in that type. `float16` adds loss scaling.
        scheduler_interval: whether `scheduler(...)` steps with every optimizer step or once an epoch.
    """

    batch_size: int = 32
    clip_norm: float | None = None
    autocast: Literal["bfloat16", "float16"] | None = None
    scheduler_interval: Literal["step", "epoch"] = "step"

    def model(self) -> nn.Module:
        """A fresh model on the CPU. Called after the run's seed was set, so its initial weights are the run's."""
        raise NotImplementedError

    def dataset(self) -> Dataset[Any]:
        """The training data: a map-style dataset (`__len__`, `__getitem__`), the same on every machine."""
        raise NotImplementedError

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The mean loss over a batch, a scalar tensor. The batch is on the model's device."""
        raise NotImplementedError

    def optimizer(self, model: nn.Module) -> Optimizer:
        """Any `torch.optim` optimizer over the model's parameters. Every replica runs it identically."""
        raise NotImplementedError

    def scheduler(self, optimizer: Optimizer) -> LRScheduler | None:
        """A learning-rate schedule that depends on the number of steps alone; None for none."""
        return None

    def labels(self, batch: Any) -> Tensor:
        """Class numbers of a batch's samples, integers 0, 1, ..., in any shape; less than 0 for none.

        Asked for only by staleness rules that compare label counts. By default the last part of the batch.

        Raises:
            JobError: the batch's last part holds no integers, so this method must be written.
        """
        import torch

        last = batch[-1] if isinstance(batch, list | tuple) and batch else None
        if not isinstance(last, torch.Tensor) or last.is_floating_point() or last.is_complex():
            name = type(self).__name__
            raise JobError(f"the staleness rule compares labels: write {name}.labels(batch), which gives class numbers")
        return last

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """Metrics of the model by name, for instance `{"accuracy": 0.97}`.

        Called on snapshots, outside the workers, with the model in `eval()` mode and gradients off.
        """
        return {}

    def collate(self, samples: Sequence[Any]) -> Any:
        """Make a batch of samples; `torch.utils.data.default_collate` unless overridden."""
        from torch.utils.data import default_collate

        return default_collate(list(samples))
