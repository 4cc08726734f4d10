"""A job makes a model, an optimizer and a scheduler. This module builds, checks, encodes and loads them.

A part whose state cannot be carried exactly is refused by name, before a run starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils._pytree import tree_map_only

from lambdaml.errors import JobError
from lambdaml.job import Job
from lambdaml.log.encoding import Tensors, decode, encode
from lambdaml.log.snapshot import EXTRA
from lambdaml.training.calls import call, examined

_OPTIMIZER = "optimizer"


def build(job: Job, device: torch.device) -> tuple[nn.Module, Optimizer, Any]:
    """Return the job's model on a device, its optimizer, and its scheduler or None.

    Raises:
        JobFailed: If the job's own code raised.
        JobError: If one of them is not what it should be, or holds state that cannot be carried.
    """
    model = build_model(job).to(device)
    optimizer = build_optimizer(job, model)
    return model, optimizer, build_scheduler(job, optimizer)


@examined("the job's model")
def build_model(job: Job) -> nn.Module:
    """Return the job's model after checking it."""
    model = call(job.model)
    where = f"{type(job).__name__}.model()"
    if not isinstance(model, nn.Module):
        raise JobError(f"{where} must return a torch.nn.Module, not {_kind(model)}")
    tensors = [*model.named_parameters(), *model.named_buffers()]
    lazy = next((name for name, tensor in tensors if is_lazy(tensor)), None)
    if lazy is not None:
        raise JobError(f"{where} has lazy layers ({lazy} has no shape yet): run a batch through the model in model()")
    for name, tensor in tensors:
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            what = "without data (meta)" if tensor.is_meta else "quantized" if tensor.is_quantized else "sparse"
            raise JobError(f"{where}: {name} is a tensor that is {what}, which cannot be carried")
    if not any(parameter.requires_grad and parameter.numel() for parameter in model.parameters()):
        raise JobError(f"{where} has no parameters that require a gradient")
    extra_state(model)
    return model


@examined("the job's optimizer")
def build_optimizer(job: Job, model: nn.Module) -> Optimizer:
    """Return the job's optimizer of this model after checking it."""
    optimizer = call(job.optimizer, model)
    where = f"{type(job).__name__}.optimizer()"
    if not isinstance(optimizer, Optimizer):
        several = ": a run has one optimizer" if isinstance(optimizer, list | tuple | dict) else ""
        raise JobError(f"{where} must return a torch.optim.Optimizer, not {_kind(optimizer)}{several}")
    own = {id(parameter) for parameter in model.parameters()}
    for number, group in enumerate(optimizer.param_groups):
        for parameter in group["params"]:
            if id(parameter) not in own:
                raise JobError(
                    f"{where}: parameter group {number} holds a parameter of shape {tuple(parameter.shape)} that is not "
                    "the model's: register it in the model, since nothing else is carried"
                )
    return optimizer


@examined("the job's scheduler")
def build_scheduler(job: Job, optimizer: Optimizer) -> Any:
    """Return the job's scheduler of this optimizer after checking it; None if the job has none."""
    scheduler = call(job.scheduler, optimizer)
    where = f"{type(job).__name__}.scheduler()"
    if scheduler is None:
        return None
    if isinstance(scheduler, ReduceLROnPlateau):
        raise JobError(
            f"{where}: ReduceLROnPlateau looks at a metric: use one that depends on the number of steps alone"
        )
    if isinstance(scheduler, type):
        raise JobError(f"{where} must return a scheduler of torch.optim.lr_scheduler or None, not {_kind(scheduler)}")
    missing = [
        name for name in ("step", "state_dict", "load_state_dict") if not callable(getattr(scheduler, name, None))
    ]
    if missing:
        raise JobError(f"{where} must return a scheduler of torch.optim.lr_scheduler or None, not {_kind(scheduler)}")
    if getattr(scheduler, "optimizer", optimizer) is not optimizer:
        raise JobError(f"{where} returns the scheduler of another optimizer than the one it was given")
    return scheduler


def extra_state(model: nn.Module) -> tuple[Tensors, dict[str, Any]]:
    """Return what `get_extra_state` of the model's modules gives: the tensors in it, and all else by its state_dict
    name.

    Raises:
        JobError: If it holds something that cannot be encoded; the message names the module.
    """
    tensors: Tensors = {}
    plain = {}
    for name, module in model.named_modules():
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            key = f"{name}._extra_state" if name else "_extra_state"
            plain[key] = encode(call(module.get_extra_state), EXTRA + key, tensors)
    return tensors, plain


@examined("the state_dict() of the job's optimizer or scheduler")
def encode_training(optimizer: Optimizer, scheduler: Any, tensors: Tensors) -> tuple[dict[str, Any], Any]:
    """Return the state of the optimizer and of the scheduler as JSON values; their tensors go into `tensors`.

    Raises:
        JobError: If the state holds something that cannot be encoded; the message names it.
    """
    whole = dict(call(optimizer.state_dict))
    state = encode(whole.pop("state", {}), _OPTIMIZER, tensors)
    rest = encode(whole, f"{_OPTIMIZER}/all", tensors)
    if scheduler is None:
        return {"state": state, **rest}, None
    try:
        written = _written(call(scheduler.state_dict))
    except RecursionError:
        raise JobError("scheduler contains itself, which cannot be written down") from None
    return {"state": state, **rest}, encode(written, "scheduler", tensors)


def load_training(optimizer: Optimizer, scheduler: Any, meta: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Load the state that `encode_training` wrote into the optimizer and the scheduler, bit for bit.

    Raises:
        RuntimeError, ValueError, KeyError, TypeError: If it is the state of another optimizer or scheduler.
    """
    state = decode(meta["optimizer"], tensors)
    optimizer.load_state_dict(state)
    _exactly(optimizer, state["state"])
    if scheduler is not None:
        scheduler.load_state_dict(decode(meta["scheduler"], tensors))


def _exactly(optimizer: Optimizer, state: Mapping[Any, Any]) -> None:
    """Undo what torch does to state that it loads: it casts tensors to the parameter's dtype, changes the types of
    containers, and turns text into nonsense.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, entries in state.items():
        if not isinstance(index, int) or not isinstance(entries, dict):
            continue
        device, loaded = parameters[index].device, optimizer.state[parameters[index]]
        for name, value in entries.items():
            if not isinstance(value, Tensor):
                elsewhere = device.type != "cpu"
                loaded[name] = tree_map_only(Tensor, lambda t: t.to(device), value) if elsewhere else value
            elif isinstance(now := loaded.get(name), Tensor) and now.dtype != value.dtype:
                loaded[name] = value.to(now.device)


def _written(state: Any) -> Any:
    """Return the state without functions, since a newly made scheduler has them already."""
    if type(state) is dict:
        return {k: _written(v) for k, v in state.items() if not isinstance(v, FunctionType | MethodType)}
    return [_written(item) for item in state] if type(state) is list else state


def _kind(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"{type(value).__name__}"
