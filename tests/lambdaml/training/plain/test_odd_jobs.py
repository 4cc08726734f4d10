"""Jobs that do unusual things: what a plain loop does with them is done bit for bit, or the job is refused by name."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Adam, Optimizer, SparseAdam
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint
from torch.utils.data import Dataset

import lambdaml
from lambdaml.errors import JobError, JobFailed
from lambdaml.storage import MemoryStore
from tests.lambdaml.training.plain.case import SAMPLES, Case, cross_entropy, points, tokens, trainable
from tests.lambdaml.training.plain.loop import (
    assert_goes_on,
    assert_refused,
    differences,
    plain_loop,
    stopped_and_resumed,
    train,
    trained,
    unlike,
)
from tests.lambdaml.training.plain.models import MODELS, Embedded, dropout_mlp, mlp


class Noisy(Dataset[Any]):
    """Augmentation from all three global streams."""

    def __init__(self) -> None:
        self.points = points()

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> Any:
        x, y = self.points[index]
        return x + 0.1 * torch.randn(8) + random.random() + float(np.random.rand()), y


def seeding_dataset() -> Dataset[Any]:
    """People seed before they draw their data, and so does scikit-learn for them."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    return Noisy()


@pytest.mark.parametrize("dataset", [Noisy, seeding_dataset])
def test_augmentation_and_dropout_draw_the_same_in_every_function(
    dataset: Callable[[], Any], store: MemoryStore
) -> None:
    assert_goes_on(Case(dropout_mlp, dataset=dataset), store)


def test_a_loss_that_seeds_for_itself_goes_on_exactly(store: MemoryStore) -> None:
    def seeding(model: nn.Module, batch: Any) -> Tensor:
        torch.manual_seed(int(batch[1].sum()))
        return cross_entropy(model, batch)

    assert_goes_on(Case(dropout_mlp, loss=seeding), store)


def test_activation_checkpoints_go_on_exactly(store: MemoryStore) -> None:
    def checkpointed(model: nn.Module, batch: Any) -> Tensor:
        return functional.cross_entropy(checkpoint(model, batch[0], use_reentrant=False), batch[1])

    assert_goes_on(Case(dropout_mlp, loss=checkpointed), store)


class Gan(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.maker, self.judge = mlp(), mlp()

    def forward(self, x: Tensor) -> Tensor:
        return self.judge(x) + self.maker(x)


@pytest.mark.parametrize("container", [list, tuple, lambda pair: dict(enumerate(pair))])
def test_two_optimizers_are_refused(container: Callable[[Any], Any], store: MemoryStore) -> None:
    def both(model: nn.Module) -> Any:
        return container([Adam(model.maker.parameters(), lr=0.01), Adam(model.judge.parameters(), lr=0.01)])

    assert_refused(Case(Gan, both), store, "optimizer()", "one optimizer")


class Stepping(Case):
    """A loss that steps the judge with an optimizer of its own, as loops for adversaries do."""

    inner: Optimizer | None = None

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        if self.inner is None:
            self.inner = SGD(model.judge.parameters(), lr=0.1)
        self.inner.zero_grad()
        cross_entropy(model.judge, batch).backward()
        self.inner.step()
        return cross_entropy(model, batch)


def test_a_loss_that_steps_another_optimizer_is_refused_by_the_parameter(store: MemoryStore) -> None:
    with pytest.raises(JobError, match="parameter judge"):
        train(Stepping(Gan, lambda model: SGD(model.maker.parameters(), lr=0.1)), store)
    assert not list(store.list("log/"))


class Teacher(nn.Module):
    """A frozen copy that follows the weights: parameters that are changed in the forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.student = mlp()
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)

    @torch.no_grad()
    def follow(self) -> None:
        for mine, other in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            mine.lerp_(other, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        self.follow()
        return self.student(x) + self.teacher(x)


class TeacherByData(Teacher):
    """The same, by assigning `.data`, which no version counter sees."""

    @torch.no_grad()
    def follow(self) -> None:
        for mine, other in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            mine.data = 0.9 * mine.data + 0.1 * other.data


class TeacherInPlace(Teacher):
    """The same through `.data` in place, as older tutorials write it."""

    def follow(self) -> None:
        for mine, other in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            mine.data.mul_(0.9).add_(other.data, alpha=0.1)


class Swa(nn.Module):
    """torch's own averaged model within the model."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()
        self.teacher = AveragedModel(self.net)
        self.teacher.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        self.teacher.update_parameters(self.net)
        return self.net(x) + self.teacher(x)


class ActNorm(nn.Module):
    """Parameters that the first batch initialises."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8))
        self.register_buffer("begun", torch.tensor(False))
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        if not self.begun:
            self.scale.data = 1 / x.std(0)
            self.begun.fill_(True)
        return self.out(x * self.scale)


class Thawing(nn.Module):
    """Layers that are unfrozen on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.out = nn.Linear(8, 8).requires_grad_(False), nn.Linear(8, 3)
        self.register_buffer("steps", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        self.steps += 1
        if self.steps == 4:
            self.base.requires_grad_()
        return self.out(self.base(x))


class Growing(nn.Module):
    """A layer that is made in the forward pass, after the optimizer."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "late"):
            self.late = nn.Linear(3, 3)
        return self.late(self.out(x))


class Remembering(nn.Linear):
    """Extra state that the forward pass changes."""

    seen = 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        return super().forward(x) / self.seen

    def get_extra_state(self) -> int:
        return self.seen

    def set_extra_state(self, state: int) -> None:
        self.seen = state


class NotPersistent(nn.Module):
    """A running mean that is no part of the state_dict."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(8), persistent=False)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.mean.lerp_(x.detach().mean(0), 0.1)
        return self.out(x - self.mean)


class LateBuffer(nn.Module):
    """A buffer that is None until the first batch has been seen."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", None)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.scale is None:
            self.scale = x.detach().std(0)
        return self.out(x / self.scale)


def renormed() -> nn.Module:
    """An embedding whose rows the forward pass shortens."""
    model = Embedded()
    model.embedding.max_norm = 0.5
    return model


def spectral_norm_of_old() -> nn.Module:
    return nn.Sequential(nn.utils.spectral_norm(nn.Linear(8, 8)), nn.Linear(8, 3))


def weight_norm_of_old() -> nn.Module:
    return nn.Sequential(nn.utils.weight_norm(nn.Linear(8, 8)), nn.Linear(8, 3))


CARRIED_OR_REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "teacher": (Teacher, "teacher."),
    "teacher by data": (TeacherByData, "teacher."),
    "teacher in place": (TeacherInPlace, "teacher."),
    "averaged model": (Swa, "teacher."),
    "initialised by data": (ActNorm, "scale"),
    "growing": (Growing, "late"),
    "remembering": (lambda: Remembering(8, 3), "extra state"),
    "not persistent": (NotPersistent, "mean"),
    "late buffer": (LateBuffer, "scale"),
    "embedding with a greatest norm": (renormed, "embedding.weight"),
    "spectral norm of old": (spectral_norm_of_old, "0.weight"),
    "weight norm of old": (weight_norm_of_old, "0.weight"),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("name", CARRIED_OR_REFUSED)
def test_what_a_forward_pass_changes_is_carried_or_refused_by_name(name: str, store: MemoryStore) -> None:
    build, word = CARRIED_OR_REFUSED[name]
    job = Case(build, lambda model: SGD(trainable(model), lr=0.05, momentum=0.9))
    try:
        run = stopped_and_resumed(job, store)
    except JobError as error:
        assert word in str(error)
        assert not list(store.list("log/")), "the job was found out only after something was committed"
    else:
        assert differences(trained(run), plain_loop(job)) == []
        assert run.verify().faults == []


def test_sparse_gradients_are_taken_as_the_dense_ones_that_they_stand_for(store: MemoryStore) -> None:
    """torch adds the rows of a sparse gradient one by one, which rounds otherwise than adding their sum."""
    run = stopped_and_resumed(Case(lambda: Embedded(sparse=True)), store)
    assert differences(trained(run), plain_loop(Case(Embedded))) == []
    assert run.verify().faults == []


def test_sparse_adam_on_sparse_gradients_is_carried_or_refused_by_name(store: MemoryStore) -> None:
    def words(model: nn.Module, batch: Any) -> Tensor:
        return functional.cross_entropy(model[0](tokens(batch[0])).mean(1), batch[1])

    job = Case(
        lambda: nn.Sequential(nn.Embedding(10, 3, sparse=True)),
        lambda model: SparseAdam(model.parameters(), lr=0.01),
        loss=words,
    )
    try:
        run = stopped_and_resumed(job, store)
    except JobError as error:
        assert "SparseAdam" in str(error) and not list(store.list(""))
    else:
        assert differences(trained(run), plain_loop(job)) == []


@pytest.mark.parametrize(
    "name", ["complex rotary buffer", "fake quantization per channel", "extra state", "mixed types"]
)
def test_a_result_opens_as_the_model_of_a_plain_loop(name: str, store: MemoryStore) -> None:
    job = Case(MODELS[name].build)
    found, expected = train(job, store).model(), plain_loop(job).model
    assert unlike(found.state_dict(), expected.state_dict()) == []


def test_layers_that_are_unfrozen_on_the_way_are_named_when_it_happens(store: MemoryStore) -> None:
    with pytest.raises(JobError, match=r"requires_grad of base\.weight"):
        train(Case(Thawing), store)


def test_a_job_that_raises_in_the_middle_is_named_and_the_run_can_go_on(store: MemoryStore) -> None:
    healthy = Case(mlp)

    def raising(model: nn.Module, batch: Any) -> Tensor:
        if raising.armed and torch.is_grad_enabled() and store.head("log/0000000004.json") is not None:
            raise ValueError("the disk is full")
        return cross_entropy(model, batch)

    raising.armed = True
    with pytest.raises(JobFailed, match="the disk is full"):
        train(Case(mlp, loss=raising), store)
    lambdaml.resume(store.url, job=healthy, engine="inline")
    assert differences(trained(lambdaml.Run(store, healthy)), plain_loop(healthy)) == []
