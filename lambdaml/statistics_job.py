"""A job without a gradient: its model's parameters are mean statistics of the data, and a step follows from new ones.

k-means and every other expectation maximisation have this form. Subclass `StatisticsJob`, fill in four methods, and train it
with `--algorithm statistics`:

    class ClassMeans(StatisticsJob):
        def model(self):            return Means(classes=10, features=64)      # parameters `sums` and `counts`
        def dataset(self):          return TensorDataset(x, y)
        def evaluate(self, model):  return {"accuracy": ...}
        def statistics(self, model, batch):
            x, y = batch
            chosen = F.one_hot(y, 10).to(x)
            return self.distance(model, x, y).sum(), {"sums": chosen.T @ x, "counts": chosen.sum(0)}

Ready jobs are in `lambdaml.jobs`. Source of steps with a rate less than 1: Cappé & Moulines, "On-line expectation-maximization
algorithm for latent data models" (arXiv 0712.4273), where it is called the step size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lambdaml.job import Job

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer


class StatisticsJob(Job):
    """Defines a model whose trained parameters are the means of statistics over the samples.

    `loss` and `optimizer` need not be written. Everything else is as with any job. `scheduler` may change the rate, which the
    optimizer has as its `lr`; there is no gradient that `clip_norm` or `autocast` could act on.

    Attributes:
        rate: The share of new means in each step: parameter = (1 - rate) x parameter + rate x mean. With 1 the new means
            replace the parameters.
    """

    rate: float = 1.0

    def statistics(self, model: nn.Module, batch: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return two sums over a batch's samples: of the objective, and of the statistics.

        Args:
            model: The model, with gradients off. It must not change.

        Returns:
            A scalar, whose mean over the samples is logged as the loss, and for each trained parameter, by its name, a tensor
            of its shape.
        """
        raise NotImplementedError

    def maximise(self, model: nn.Module, means: Mapping[str, Tensor]) -> None:
        """Set the trained parameters, with gradients off, to what follows from the new means. By default to these.

        Args:
            means: The new means by the parameters' names. If the rate is less than 1, the old parameters are in them already.
        """
        for name, mean in means.items():
            model.get_parameter(name).copy_(mean)

    def optimizer(self, model: nn.Module) -> Optimizer:
        """Return the optimizer whose step along new means is `maximise`."""
        from lambdaml.training.maximisation import Maximisation

        return Maximisation(model, self.maximise, self.rate)
