"""Models as people write them, a handful of lines each.

Every model maps points of shape (n, 8) to logits of shape (n, 3), so that one data set serves all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.ao import quantization
from torch.nn import functional
from torch.nn.utils import parametrizations, prune

from tests.lambdaml.training.plain.case import cross_entropy, tokens


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 3))


def dropout_mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Dropout(0.3), nn.Linear(12, 3))


def layer_norm_mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 12), nn.LayerNorm(12), nn.GELU(), nn.Linear(12, 3))


def cnn(norm: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(
        nn.Unflatten(1, (1, 2, 4)), nn.Conv2d(1, 4, 3, padding=1), norm(), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)
    )


class Recurrent(nn.Module):
    def __init__(self, cell: type[nn.LSTM | nn.GRU]) -> None:
        super().__init__()
        self.cell = cell(2, 6, batch_first=True)
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.cell(x.view(-1, 4, 2))[0][:, -1])


class Transformer(nn.Module):
    """An encoder whose output layer is tied to its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.out = nn.Linear(8, 10, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.encoder(self.embedding(tokens(x)))).mean(1)[:, :3]


class Embedded(nn.Module):
    def __init__(self, *, bag: bool = False, sparse: bool = False) -> None:
        super().__init__()
        self.embedding = nn.EmbeddingBag(10, 6, mode="mean") if bag else nn.Embedding(10, 6, 0, sparse=sparse)
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        found = self.embedding(tokens(x))
        return self.out(found if found.dim() == 2 else found.mean(1))


class LoRA(nn.Module):
    """A frozen layer with a trained correction of rank 2."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(8, 3).requires_grad_(False)
        self.down = nn.Parameter(torch.randn(2, 8) * 0.1)
        self.up = nn.Parameter(torch.zeros(3, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.down.T @ self.up.T


def parametrized(how: Callable[[nn.Module], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(how(nn.Linear(8, 8)), nn.Tanh(), nn.Linear(8, 3))


def pruned() -> nn.Module:
    model = mlp()
    prune.l1_unstructured(model[0], "weight", amount=0.5)
    return model


class Rotary(nn.Module):
    def __init__(self, *, persistent: bool) -> None:
        super().__init__()
        self.register_buffer("rotation", torch.polar(torch.ones(4), torch.arange(4.0) / 3), persistent=persistent)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.view_as_real(torch.view_as_complex(x.view(-1, 4, 2)) * self.rotation).flatten(1))


class ComplexFilter(nn.Module):
    """A filter in the frequency domain: its parameters, and a running mean of the spectrum, are complex."""

    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Parameter(torch.randn(5, dtype=torch.cfloat))
        self.register_buffer("spectrum", torch.zeros(5, dtype=torch.cfloat))
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        found = torch.fft.rfft(x)
        self.spectrum.lerp_(found.detach().mean(0), 0.1)
        return self.out(torch.fft.irfft((found - self.spectrum) * self.filter, n=8))


def observed(observer: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Linear(8, 12), observer(), nn.ReLU(), nn.Linear(12, 3))


class QuantizedWeight(nn.Module):
    """Quantization-aware training, per channel: the buffers grow at the first forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.out = nn.Linear(8, 12), nn.Linear(12, 3)
        self.fake = quantization.FakeQuantize(
            quantization.MovingAveragePerChannelMinMaxObserver,
            quant_min=-128,
            quant_max=127,
            dtype=torch.qint8,
            qscheme=torch.per_channel_symmetric,
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.out(functional.linear(x, self.fake(self.layer.weight), self.layer.bias).relu())


class Averaged(nn.Module):
    """An exponential moving average of the weights, kept in buffers and pulled towards."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()
        for name, parameter in self.net.named_parameters():
            self.register_buffer("mean_" + name.replace(".", "_"), parameter.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        drift = torch.zeros(())
        for name, parameter in self.net.named_parameters():
            mean = self.get_buffer("mean_" + name.replace(".", "_"))
            if self.training:
                mean.lerp_(parameter.detach(), 0.1)
            drift = drift + (parameter - mean).pow(2).sum()
        return self.net(x) + drift


class Floor(nn.Module):
    """Running extremes that begin at infinity, and a mean that is not known yet."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.tensor(float("inf")))
        self.register_buffer("high", torch.full((8,), -float("inf")))
        self.register_buffer("never", torch.tensor(float("nan")))
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.low.copy_(torch.minimum(self.low, x.detach().min()))
        self.high.copy_(torch.maximum(self.high, x.detach().amax(0)))
        return self.out((x - self.low) / (self.high - self.low))


class Centre(nn.Module):
    """A running mean that is assigned anew instead of changed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return self.out(x - self.mean)


class Counters(nn.Module):
    """Buffers that are counts, flags and bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("begun", torch.tensor(False))
        self.register_buffer("bytes", torch.full((3,), 250, dtype=torch.uint8))
        self.register_buffer("left", torch.tensor(100, dtype=torch.int16))
        self.register_buffer("offset", torch.zeros(8, dtype=torch.float16))
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        if not self.begun:
            self.offset.copy_(x.detach().mean(0))
        self.begun.fill_(True)
        self.steps += 1
        self.bytes += 3
        self.left -= 7
        return self.out(x - self.offset.float()) / self.steps


class Codebook(nn.Module):
    """Vector quantization: the codes are buffers, moved towards the mean of what they stand for."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.out = nn.Linear(8, 4), nn.Linear(4, 3)
        self.register_buffer("codes", torch.randn(6, 4))

    def forward(self, x: Tensor) -> Tensor:
        latent = self.encode(x)
        nearest = torch.cdist(latent.detach(), self.codes).argmin(1)
        chosen = self.codes[nearest]
        self.codes = self.codes.index_add(0, nearest, 0.1 * (latent.detach() - chosen))
        return self.out(latent + (chosen - latent).detach())


class Branches(nn.Module):
    """Two experts, of which a batch uses one: the other has no gradient in that step."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.never = nn.Linear(8, 3), nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return (self.left if x[0, 0] > 0 else self.right)(x)


class MixedTypes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle = nn.Linear(8, 6), nn.Linear(6, 6, dtype=torch.float64)
        self.last = nn.Linear(6, 3, dtype=torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.middle(self.first(x).tanh().double()).bfloat16())


class Casting(nn.Module):
    """All of a model in one type."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.net = nn.Sequential(nn.Linear(8, 12), nn.BatchNorm1d(12), nn.Tanh(), nn.Linear(12, 3)).to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.to(self.dtype))


class Counted(nn.Linear):
    """Extra state that training does not change."""

    seen = 3

    def get_extra_state(self) -> dict[str, Any]:
        return {"seen": self.seen, "names": ("a", "b"), "table": {1: torch.arange(3)}}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]


class Masked(nn.Linear):
    def __init__(self) -> None:
        super().__init__(8, 3)
        self.register_buffer("mask", (torch.arange(8.0) % 3).view(1, 8).expand(16, 8))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * self.mask[0])


class Shared(nn.Module):
    """One layer under two names, in a ModuleDict, a ModuleList and a ParameterList."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.Linear(8, 8)
        self.parts = nn.ModuleDict({"first": layer, "second": layer, "norm": nn.BatchNorm1d(8)})
        self.more = nn.ModuleList([self.parts["norm"], nn.Linear(8, 3)])
        self.scales = nn.ParameterList([torch.ones(8), torch.ones(())])

    def forward(self, x: Tensor) -> Tensor:
        x = self.parts["norm"](self.parts["first"](x).tanh() * self.scales[0])
        return self.more[1](self.more[0](self.parts["second"](x))) * self.scales[1]


def hooked() -> nn.Module:
    """One gradient is halved by a hook, another is replaced after it was accumulated."""
    model = mlp()
    model[0].weight.register_hook(lambda gradient: gradient * 0.5)

    def clamp(parameter: Tensor) -> None:
        parameter.grad = parameter.grad.clamp(-0.01, 0.01) if parameter.grad is not None else None

    model[2].weight.register_post_accumulate_grad_hook(clamp)
    return model


def zeroing_loss(model: nn.Module, batch: Any) -> Tensor:
    model.zero_grad()
    return cross_entropy(model, batch)


def zeros_loss(model: nn.Module, batch: Any) -> Tensor:
    model.zero_grad(set_to_none=False)
    return cross_entropy(model, batch)


def penalty_loss(model: nn.Module, batch: Any) -> Tensor:
    """A gradient penalty: the loss is differentiated twice, and leaves gradients behind on the way."""
    x = batch[0].clone().requires_grad_()
    loss = functional.cross_entropy(model(x), batch[1])
    (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
    return loss + gradient.pow(2).sum()


def own_backward_loss(model: nn.Module, batch: Any) -> Tensor:
    """Half of the batch is differentiated by the loss itself, as with gradient accumulation."""
    half = len(batch[0]) // 2
    cross_entropy(model, [part[:half] for part in batch]).backward()
    return cross_entropy(model, [part[half:] for part in batch])


def smooth_loss(model: nn.Module, batch: Any) -> Tensor:
    """A loss that is a module, without parameters."""
    return nn.CrossEntropyLoss(label_smoothing=0.1)(model(batch[0]), batch[1])


@dataclass(frozen=True, slots=True)
class Model:
    """How to build a model, and what its job sets besides. `refuses` names optimizers that cannot train it anywhere."""

    build: Callable[[], nn.Module]
    options: dict[str, Any] = field(default_factory=dict)
    refuses: tuple[str, ...] = ()


MODELS: dict[str, Model] = {
    "mlp": Model(mlp),
    "cnn with batch norm": Model(cnn(lambda: nn.BatchNorm2d(4))),
    "cnn with group norm": Model(cnn(lambda: nn.GroupNorm(2, 4))),
    "cnn with instance norm": Model(cnn(lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True))),
    "batch norm with a cumulative mean": Model(cnn(lambda: nn.BatchNorm2d(4, momentum=None))),
    "layer norm": Model(layer_norm_mlp),
    "dropout": Model(dropout_mlp),
    "lstm": Model(lambda: Recurrent(nn.LSTM)),
    "gru": Model(lambda: Recurrent(nn.GRU)),
    "transformer with tied weights": Model(Transformer),
    "embedding": Model(Embedded),
    "embedding bag": Model(lambda: Embedded(bag=True)),
    "lora on a frozen base": Model(LoRA),
    "weight norm": Model(parametrized(parametrizations.weight_norm)),
    "spectral norm": Model(parametrized(parametrizations.spectral_norm)),
    "orthogonal weights": Model(parametrized(parametrizations.orthogonal)),
    "pruned": Model(pruned),
    "complex rotary buffer": Model(lambda: Rotary(persistent=True)),
    "complex rotary buffer that is not persistent": Model(lambda: Rotary(persistent=False)),
    "complex parameters": Model(ComplexFilter, refuses=("Adafactor", "Rprop")),
    "min-max observer": Model(observed(quantization.MinMaxObserver)),
    "moving average observer": Model(observed(quantization.MovingAverageMinMaxObserver)),
    "fake quantization": Model(observed(quantization.FakeQuantize)),
    "fused fake quantization": Model(observed(quantization.FusedMovingAvgObsFakeQuantize)),
    "fake quantization per channel": Model(QuantizedWeight),
    "moving average of weights": Model(Averaged),
    "running minimum from infinity": Model(Floor),
    "buffer assigned anew": Model(Centre),
    "counters and flags": Model(Counters),
    "vector quantization": Model(Codebook),
    "branches without a gradient": Model(Branches),
    "bfloat16": Model(lambda: Casting(torch.bfloat16)),
    "float64": Model(lambda: Casting(torch.float64)),
    "mixed types": Model(MixedTypes),
    "autocast in float16": Model(layer_norm_mlp, {"autocast": "float16"}),
    "autocast": Model(dropout_mlp, {"autocast": "bfloat16"}),
    "clipped": Model(mlp, {"clip_norm": 0.05}),
    "clipped branches": Model(Branches, {"clip_norm": 0.05}),
    "scheduled by epochs": Model(mlp, {"scheduler_interval": "epoch", "batch_size": 20}),
    "extra state": Model(lambda: Counted(8, 3)),
    "expanded buffer": Model(Masked),
    "shared modules": Model(Shared),
    "gradients changed by hooks": Model(hooked),
    "gradients set to None in the loss": Model(mlp, {"loss": zeroing_loss}),
    "gradients set to zero in the loss": Model(Branches, {"loss": zeros_loss}),
    "gradient penalty": Model(layer_norm_mlp, {"loss": penalty_loss}),
    "backward within the loss": Model(mlp, {"loss": own_backward_loss}),
    "a module as loss": Model(mlp, {"loss": smooth_loss}),
}
