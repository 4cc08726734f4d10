"""Ways to make every optimizer and scheduler that torch has, by the name of its class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn, optim
from torch.optim import Optimizer, lr_scheduler, swa_utils

from tests.lambdaml.training.plain.case import trainable

MakeOptimizer = Callable[[nn.Module], Optimizer]
MakeScheduler = Callable[[Optimizer], Any]


def two_groups(model: nn.Module) -> Optimizer:
    """Two groups with options of their own."""
    parameters = trainable(model)
    groups = [{"params": parameters[:1], "lr": 0.01, "weight_decay": 0.1}, {"params": parameters[1:]}]
    return optim.SGD(groups, lr=0.05, momentum=0.9)


def named(model: nn.Module) -> Optimizer:
    """An optimizer that knows its parameters' names."""
    found = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    return optim.AdamW(found, lr=0.01)


OPTIMIZERS: dict[str, dict[str, MakeOptimizer]] = {
    "ASGD": {"asgd": lambda m: optim.ASGD(trainable(m), lr=0.05, t0=3.0, weight_decay=0.01)},
    "Adadelta": {"adadelta": lambda m: optim.Adadelta(trainable(m), lr=0.5)},
    "Adafactor": {"adafactor": lambda m: optim.Adafactor(trainable(m), lr=0.05)},
    "Adagrad": {"adagrad": lambda m: optim.Adagrad(trainable(m), lr=0.05, lr_decay=0.1)},
    "Adam": {
        "adam": lambda m: optim.Adam(trainable(m), lr=0.01),
        "adam with a tensor as lr": lambda m: optim.Adam(trainable(m), lr=torch.tensor(0.01)),
        "fused adam": lambda m: optim.Adam(trainable(m), lr=0.01, fused=True),
    },
    "AdamW": {
        "adamw with amsgrad": lambda m: optim.AdamW(trainable(m), lr=0.01, amsgrad=True),
        "adamw over names": named,
        "adamw for each": lambda m: optim.AdamW(trainable(m), lr=0.01, foreach=True),
    },
    "Adamax": {"adamax": lambda m: optim.Adamax(trainable(m), lr=0.02)},
    "Muon": {"muon": lambda m: optim.Muon([p for p in trainable(m) if p.dim() == 2], lr=0.02)},
    "NAdam": {"nadam": lambda m: optim.NAdam(trainable(m), lr=0.02)},
    "RAdam": {"radam": lambda m: optim.RAdam(trainable(m), lr=0.02)},
    "RMSprop": {"rmsprop": lambda m: optim.RMSprop(trainable(m), lr=0.01, momentum=0.9, centered=True)},
    "Rprop": {"rprop": lambda m: optim.Rprop(trainable(m), lr=0.01)},
    "SGD": {
        "sgd": lambda m: optim.SGD(trainable(m), lr=0.1),
        "sgd with momentum": lambda m: optim.SGD(trainable(m), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
        "sgd with two groups": two_groups,
        "sgd with a tensor as lr": lambda m: optim.SGD(trainable(m), lr=torch.tensor(0.1), momentum=0.9),
    },
}

REFUSED_OPTIMIZERS: dict[str, MakeOptimizer] = {
    "LBFGS": lambda m: optim.LBFGS(trainable(m)),
    "SparseAdam": lambda m: optim.SparseAdam(trainable(m)),
}

SCHEDULERS: dict[str, dict[str, MakeScheduler]] = {
    "ChainedScheduler": {
        "chained": lambda o: lr_scheduler.ChainedScheduler(
            [lr_scheduler.ConstantLR(o, 0.5, total_iters=5), lr_scheduler.ExponentialLR(o, 0.9)]
        )
    },
    "ConstantLR": {"constant": lambda o: lr_scheduler.ConstantLR(o, 0.5, total_iters=6)},
    "CosineAnnealingLR": {"cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=6)},
    "CosineAnnealingWarmRestarts": {
        "cosine restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=2, T_mult=2)
    },
    "CyclicLR": {
        "cyclic": lambda o: lr_scheduler.CyclicLR(o, 0.001, 0.05, step_size_up=3, cycle_momentum=False),
        "cyclic by a function": lambda o: lr_scheduler.CyclicLR(
            o, 0.001, 0.05, step_size_up=2, scale_fn=lambda x: 0.5**x, cycle_momentum=False
        ),
    },
    "ExponentialLR": {"exponential": lambda o: lr_scheduler.ExponentialLR(o, 0.8)},
    "LambdaLR": {"lambda": lambda o: lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step))},
    "LinearLR": {"linear": lambda o: lr_scheduler.LinearLR(o, 0.1, total_iters=6)},
    "MultiStepLR": {"milestones": lambda o: lr_scheduler.MultiStepLR(o, [2, 5, 5, 10])},
    "MultiplicativeLR": {"multiplicative": lambda o: lr_scheduler.MultiplicativeLR(o, lambda step: 0.9)},
    "OneCycleLR": {"one cycle": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=12, cycle_momentum=False)},
    "PolynomialLR": {"polynomial": lambda o: lr_scheduler.PolynomialLR(o, total_iters=7, power=2.0)},
    "SWALR": {"swa": lambda o: swa_utils.SWALR(o, swa_lr=0.001, anneal_epochs=5)},
    "SequentialLR": {
        "sequence": lambda o: lr_scheduler.SequentialLR(
            o,
            [lr_scheduler.LinearLR(o, 0.1, total_iters=3), lr_scheduler.MultiStepLR(o, [1, 3], gamma=0.5)],
            milestones=[3],
        )
    },
    "StepLR": {"steps": lambda o: lr_scheduler.StepLR(o, 2, gamma=0.5)},
}

REFUSED_SCHEDULERS: dict[str, MakeScheduler] = {
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o),
}
