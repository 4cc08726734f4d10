"""safetensors files of our own making: the library's, byte for byte, with one copy of what is in them."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load as load_by_library
from safetensors.torch import save

from lambdaml.log import tensorfile
from tests.lambdaml.lab import equal

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.bool, torch.uint8),
    *(torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64),
    *(torch.float8_e5m2, torch.float8_e4m3fn, torch.float8_e5m2fnuz, torch.float8_e4m3fnuz),
]


def filled(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    size = int(np.prod(shape)) * dtype.itemsize
    return (torch.arange(size, dtype=torch.int64) % 2).to(torch.uint8).view(dtype).reshape(shape)


def test_files_are_those_of_the_library() -> None:
    tensors = {f"{number % 3}/{dtype}": filled(dtype, 2, 3) for number, dtype in enumerate(DTYPES)}
    tensors |= {
        "scalar": torch.tensor(3.0),
        "empty": torch.zeros(3, 0),
        '\u00e9\u0001"/': torch.ones(2),
        "Z": torch.ones(1),
    }
    data = tensorfile.dump(tensors, {"format": "pt"})
    assert data == save(tensors, {"format": "pt"})
    assert equal(load_by_library(data), tensors)
    found, metadata = tensorfile.load_tensors(data)
    assert equal(found, tensors) and metadata == {"format": "pt"}


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda name: name != "__metadata__"),
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 3), max_size=3)),
        max_size=6,
    )
)
def test_any_names_and_shapes_are_written_as_the_library_does(named: dict[str, tuple[torch.dtype, list[int]]]) -> None:
    tensors = {name: filled(dtype, *shape) for name, (dtype, shape) in named.items()}
    data = tensorfile.dump(tensors, {"state": "x"})
    assert data == save(tensors, {"state": "x"})
    assert equal(tensorfile.load_tensors(data)[0], tensors)


def test_what_is_read_is_memory_of_its_own() -> None:
    data = tensorfile.dump({"w": torch.ones(4)}, {"format": "pt"})
    before = bytes(bytearray(data))
    tensorfile.load_tensors(memoryview(data))[0]["w"].zero_()
    assert data == before


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "F7"},
        {"dtype": None},
        {"shape": [3]},
        {"shape": [-2, -2]},
        {"shape": [2.0, 2.0]},
        {"shape": "22"},
        {"data_offsets": [0, 15]},
        {"data_offsets": [1, 17]},
        {"data_offsets": [-16, 0]},
        {"data_offsets": [0]},
        {"data_offsets": [0, 10**30]},
    ],
    ids=str,
)
def test_a_header_that_does_not_fit_is_refused(change: dict[str, object]) -> None:
    data = tensorfile.dump({"w": torch.ones(2, 2)}, {"format": "pt"})
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["w"] |= change
    text = json.dumps(header).encode()
    with pytest.raises(ValueError):
        tensorfile.load_tensors(len(text).to_bytes(8, "little") + text + data[8 + length :])


@pytest.mark.parametrize("kinds", ['{"w": "float32"}', '{"w": "load"}', '{"w": "complex128"}', "[", "5", '{"w": 5}'])
def test_pairs_that_are_none_are_refused(kinds: str) -> None:
    data = tensorfile.dump({"w": torch.ones(3, 3)}, {"format": "pt", "complex": kinds})
    with pytest.raises(ValueError):
        tensorfile.load_tensors(data)


def test_writing_makes_one_copy() -> None:
    tensors = {f"w{number}": torch.zeros(2**18) for number in range(8)}
    tracemalloc.start()
    try:
        data = tensorfile.dump(tensors, {"format": "pt"})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(data) <= peak < 1.05 * len(data)
