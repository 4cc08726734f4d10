"""Python values as JSON and tensors: they come back exactly, or are refused by name."""

from __future__ import annotations

import json
import math
from collections import Counter, OrderedDict, defaultdict, deque
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lambdaml.errors import JobError
from lambdaml.log.encoding import decode, encode

VALUES = [
    *[None, True, 3, -0.0, 0.1 + 0.2, math.inf, -math.inf, 1e-320, "text", "", 2 + 3j, b"\x00\xff"],
    *[(), (0.9, (0.999, [1])), [], [[], ()], {}, {"a": {"b": 1}}, {1: "one", "1": "text", (2, 3): None, 0.5: True}],
    *[Counter({5: 1, 10: 2}), OrderedDict([("b", 1), ("a", 2)]), {"$tuple": [1]}, {1, 2}, frozenset({"x"})],
    *[deque([1, 2], 5), torch.float64, torch.Size([2, 3]), torch.device("cpu"), np.float32(0.1), np.int64(7)],
]


def through(value: Any) -> Any:
    tensors: dict[str, torch.Tensor] = {}
    return decode(json.loads(json.dumps(encode(value, "state", tensors), allow_nan=False)), tensors)


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_comes_back_equal_and_of_its_type(value: Any) -> None:
    found = through(value)
    assert found == value and type(found) is type(value)
    assert repr(found) == repr(value)  # tells apart 1 and True, 0.0 and -0.0, and the order of members


def test_nan_comes_back() -> None:
    assert math.isnan(through(math.nan))


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers() | st.booleans().map(lambda b: (b, 1)), inner)
    ),
    max_leaves=20,
)


@given(plain)
def test_nested_values_come_back_equal_and_of_their_types(value: Any) -> None:
    assert repr(through(value)) == repr(value)


def test_tensors_at_any_depth_stand_under_the_path_that_leads_to_them() -> None:
    tensors: dict[str, torch.Tensor] = {}
    value = {
        "a": [torch.ones(2), {"b": torch.tensor(3, dtype=torch.int16)}],
        7: (torch.zeros(0, dtype=torch.complex64),),
    }
    found = decode(encode(value, "s", tensors), tensors)
    assert list(tensors) == ["s/a/0", "s/a/1/b", "s/7/0"]
    assert torch.equal(found["a"][0], torch.ones(2)) and found["a"][1]["b"].dtype == torch.int16
    assert found[7][0].dtype == torch.complex64


def test_paths_that_are_alike_do_not_hide_one_another() -> None:
    tensors: dict[str, torch.Tensor] = {}
    found = decode(encode({1: torch.ones(1), "1": torch.zeros(1)}, "s", tensors), tensors)
    assert (float(found[1]), float(found["1"])) == (1.0, 0.0)


def test_an_encoded_tensor_is_the_original_and_no_copy_where_it_is_plain() -> None:
    """A snapshot is written without a second copy of the state; who keeps one copies it, as `Replica.state` does."""
    tensors: dict[str, torch.Tensor] = {}
    value, turned = torch.ones(3), torch.ones(2, 3).t()
    encode([value, turned], "s", tensors)
    assert tensors["s/0"].data_ptr() == value.data_ptr()
    assert tensors["s/1"].is_contiguous() and torch.equal(tensors["s/1"], turned)


class Odd:
    pass


class Int(int):
    pass


ODD = {
    "object": Odd(),
    "function": len,
    "class": Odd,
    "factory": defaultdict(list),
    "text": np.array(["a"]),
    "int": Int(3),
}


@pytest.mark.parametrize("value", list(ODD.values()), ids=list(ODD))
def test_what_has_no_exact_form_is_refused_by_its_path(value: Any) -> None:
    with pytest.raises(JobError, match="optimizer/state/0/deep is a .* cannot be written down"):
        encode({"state": {0: {"deep": value}}}, "optimizer", {})


def test_what_contains_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(JobError, match="contains itself"):
        encode(value, "s", {})
