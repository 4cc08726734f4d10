"""State that optimizers and schedulers of people's own keep: carried with its types, or refused by name."""

from __future__ import annotations

import collections
import datetime
import enum
import fractions
import io
import pathlib
import threading
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lambdaml.errors import JobError
from lambdaml.storage import MemoryStore
from tests.lambdaml.training.plain.case import Case, sgd, trainable
from tests.lambdaml.training.plain.loop import (
    assert_goes_on,
    assert_refused,
    differences,
    plain_loop,
    stopped_and_resumed,
    trained,
)
from tests.lambdaml.training.plain.models import mlp


class Colour(enum.IntEnum):
    RED = 1


class Point(NamedTuple):
    x: int


class Text(str):
    pass


CARRIED: dict[str, Any] = {
    "counter": Counter({5: 1, 10: 2}),
    "tuple": (0.9, (1, [2, ()])),
    "set": {1, "1", 2.5, None, (3, 4)},
    "frozenset": frozenset({(1, 2), ()}),
    "numbers as keys": {2: "a", 2.5: "b", True: "c", None: "d", (1, 2): "e", "2": "f"},
    "nested numbers as keys": [{"a": {3: {4: (5,)}}}],
    "ordered": OrderedDict([("b", 1), ("a", 2)]),
    "names that look like marks": {"$tuple": [1], "$dict": {"$float": "inf"}, "": 0},
    "numbers": [0.1, -0.0, 1e-320, 1.0, 1, 2**70, -(2**63), True, False, None],
    "no finite numbers": [float("inf"), -float("inf"), float("nan")],
    "text": ["", "ä\u2028\U0001f600", "a/b", "\x00\n"],
    "tensor": torch.arange(6.0).view(2, 3),
    "tensors at depth": {"a": [{3: (torch.tensor(1), {"b": torch.tensor([1.5], dtype=torch.bfloat16)})}]},
    "kinds of tensors": [
        *(torch.ones(2, dtype=dtype) for dtype in (torch.bool, torch.uint8, torch.int16, torch.float16, torch.float64)),
        *(torch.tensor([1 + 2j], dtype=dtype) for dtype in (torch.complex64, torch.complex128)),
        torch.tensor([float("inf"), float("nan"), -0.0]),
        torch.empty(0, 3),
        torch.tensor(7),
    ],
    "views of tensors": [torch.arange(6.0)[::2], torch.ones(1).expand(4), torch.arange(6.0).view(2, 3).T],
    "empty": [[], {}, (), set(), Counter(), OrderedDict()],
}

CARRIED_OR_REFUSED: dict[str, Any] = {
    "deque": deque([1, 2], maxlen=3),
    "defaultdict": defaultdict(list, {1: [2]}),
    "bytes": b"\x00\xff",
    "complex": complex(1, -0.0),
    "range": range(3),
    "slice": slice(1, 2),
    "enum": Colour.RED,
    "named tuple": Point(1),
    "text of a kind of its own": Text("a"),
    "dtype": torch.bfloat16,
    "device": torch.device("cpu"),
    "size": torch.Size([2, 3]),
    "number of numpy": np.float32(0.1),
    "whole number of numpy": np.int64(3),
    "array": np.arange(3),
    "array of text": np.array(["a"]),
    "generator": torch.Generator(),
    "parameter": nn.Parameter(torch.ones(2)),
    "sparse tensor": torch.eye(2).to_sparse(),
    "path": pathlib.PurePosixPath("a"),
    "date": datetime.date(2026, 1, 1),
    "fraction": fractions.Fraction(1, 3),
    "class": Counter,
    "user dict": collections.UserDict({1: 2}),
    "lone surrogate": "\ud800",
    "big integer": 10**5000,
    "chain": collections.ChainMap({1: 2}),
}

REFUSED: dict[str, Callable[[], Any]] = {
    "object": object,
    "lock": threading.Lock,
    "open file": io.BytesIO,
    "iterator": lambda: iter([1]),
    "generator function": lambda: (i for i in [1]),
    "module": lambda: nn.Linear(1, 1),
}


class Keeping(LRScheduler):
    """A scheduler that keeps a value, and writes it down as torch does."""

    def __init__(self, optimizer: Optimizer, value: Any) -> None:
        self.kept = value
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        return [group["lr"] * 0.9 for group in self.optimizer.param_groups]


class KeepingSGD(SGD):
    """SGD that keeps a value with each parameter, with its first group, or both."""

    def __init__(self, model: nn.Module, value: Any, *places: str) -> None:
        super().__init__(trainable(model), lr=0.1)
        self.value = value
        if "group" in places:
            self.param_groups[0]["kept"] = value
        if "state" in places:
            for parameter in self.param_groups[0]["params"]:
                self.state[parameter]["kept"] = value


def jobs_that_keep(value: Any) -> dict[str, Case]:
    return {
        "scheduler": Case(mlp, sgd, lambda optimizer: Keeping(optimizer, value)),
        "param_groups": Case(mlp, lambda model: KeepingSGD(model, value, "group")),
        "optimizer.state": Case(mlp, lambda model: KeepingSGD(model, value, "state")),
    }


PLACES = list(jobs_that_keep(None))


@pytest.mark.filterwarnings("ignore:Casting complex values")  # torch casts what it loads, before it is put right
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", CARRIED)
def test_state_comes_back_with_its_types_and_bits(name: str, place: str, store: MemoryStore) -> None:
    assert_goes_on(jobs_that_keep(CARRIED[name])[place], store)


def test_the_order_of_what_is_kept_comes_back(store: MemoryStore) -> None:
    value = {"b": Counter({2: 1, 1: 1}), "a": OrderedDict([(2, 0), (1, 0)]), "numbers": {3: 0, 1: 0}}
    run = stopped_and_resumed(jobs_that_keep(value)["scheduler"], store)
    kept = trained(run).scheduler.kept
    assert [list(kept), *map(list, kept.values())] == [list(value), *map(list, value.values())]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", CARRIED_OR_REFUSED)
def test_rare_state_comes_back_exactly_or_is_refused_by_name(name: str, place: str, store: MemoryStore) -> None:
    job = jobs_that_keep(CARRIED_OR_REFUSED[name])[place]
    try:
        run = stopped_and_resumed(job, store)
    except JobError as error:
        assert ("kept" in str(error) or "load_state_dict() of its optimizer" in str(error)) and error.exit_code == 2
        assert [info.key for info in store.list("")] == []
    else:
        assert differences(trained(run), plain_loop(job)) == []
        assert run.verify().faults == []


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", REFUSED)
def test_state_that_nobody_can_write_down_is_refused_by_name(name: str, place: str, store: MemoryStore) -> None:
    assert_refused(jobs_that_keep(REFUSED[name]())[place], store, "kept")


@pytest.mark.parametrize("place", ["scheduler", "param_groups"])
def test_state_that_contains_itself_is_refused_by_its_place(place: str, store: MemoryStore) -> None:
    endless: list[Any] = []
    endless.append(endless)
    word = "scheduler" if place == "scheduler" else "optimizer"
    assert_refused(jobs_that_keep(endless)[place], store, word, "contains itself")
