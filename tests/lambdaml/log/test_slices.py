"""Updates in slices: each block stands for itself, and all of them are the update."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lambdaml.codecs import CODECS, Layout, UpdateContext
from lambdaml.errors import BadObject
from lambdaml.log import slices
from lambdaml.log.records import Update
from lambdaml.log.slices import TAIL_BYTES, Slicing
from lambdaml.training.slices import slicing_of

SLICEABLE = [name for name in CODECS.variants() if CODECS.make(name).record is not None]
KEY = "updates/00003/0000000007"


def made(codec: str, size: int, count: int) -> tuple[Slicing, Update, bytes, dict[str, np.ndarray]]:
    """An update of worker 3 in slices: how it is cut, itself, its object, and the arrays of its codec."""
    layout = Layout.flat(size)
    vector = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    body = CODECS.make(codec).encode(vector, layout, UpdateContext(seed=1))
    slicing = slicing_of(CODECS.make(codec), layout, count)
    update = Update(3, 7, 5, 2, "f", 16, 0.5, codec, ready_s=0.5, upload_s=0.25, base_commit=6)
    update.body = {**body, "b0": np.arange(8, dtype=np.uint8).reshape(1, 8)}
    return slicing, update, update.pack(slicing), body


@pytest.mark.parametrize("codec", SLICEABLE)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_an_update_in_slices_is_read_as_it_was_written(codec: str, count: int) -> None:
    _, update, data, body = made(codec, 10_000, count)
    found = Update.read(data, KEY)
    assert (found.id, found.samples, found.base_commit, found.size_bytes) == ((3, 7), 16, 6, len(data))
    assert set(found.body) == {*body, "b0"}
    for name, array in body.items():
        np.testing.assert_array_equal(found.body[name], array)
        np.testing.assert_array_equal(update.body[name], array)


@pytest.mark.parametrize("codec", SLICEABLE)
def test_a_block_is_at_a_place_that_follows_from_the_run_and_decodes_to_its_elements(codec: str) -> None:
    slicing, _, data, body = made(codec, 10_000, 3)
    part = CODECS.make(codec)
    whole = np.empty(10_000, np.float32)
    part.add(body, 1.0, whole, Layout.flat(10_000), slice(0, 10_000), fresh=True)
    for index in range(3):
        start = slicing.offset(index)
        block = slicing.read(data[start : start + slicing.length(index)], index, KEY)
        assert (block.worker, block.seq, block.base_commit, block.base) == (3, 7, 6, 5)
        assert (block.generation, block.samples, block.made_s) == (2, 16, 0.75)
        span = slicing.span(index)
        layout = Layout.flat(span.stop - span.start)
        assert part.check(block.body, layout) == ""
        out = np.empty(layout.size, np.float32)
        part.add(block.body, 1.0, out, layout, slice(0, layout.size), fresh=True)
        np.testing.assert_array_equal(out, whole[span])


def test_whoever_reads_the_last_block_reads_the_header_along() -> None:
    slicing, _, data, _ = made("fp32", 1000, 4)
    start = slicing.offset(3)
    tail = data[start : start + slicing.length(3) + TAIL_BYTES]
    header, arrays = slices.envelope(tail[slicing.length(3) :], KEY)
    assert header["loss"] == 0.5 and list(arrays) == ["b0"]


@pytest.mark.parametrize("at", [0, 30, 70, 1500])
def test_a_damaged_block_is_noticed_and_the_others_are_not_blamed(at: int) -> None:
    slicing, _, data, _ = made("fp32", 1000, 2)
    broken = bytearray(data)
    broken[at] ^= 0x40
    first, second = slicing.length(0), slicing.length(1)
    with pytest.raises(BadObject, match="slice"):
        slicing.read(bytes(broken[:first]), 0, KEY)
    assert slicing.read(bytes(broken[first : first + second]), 1, KEY).worker == 3
    with pytest.raises(BadObject):
        Update.read(bytes(broken), KEY)


@pytest.mark.parametrize("length", [0, 3, 63, 500, -1, -20])
def test_a_truncated_update_in_slices_is_noticed(length: int) -> None:
    _, _, data, _ = made("fp32", 1000, 2)
    with pytest.raises(BadObject):
        Update.read(data[:length], KEY)


def test_a_block_of_another_place_is_refused() -> None:
    slicing, _, data, _ = made("fp32", 1000, 2)
    with pytest.raises(BadObject, match="slice 1"):
        slicing.read(data[: slicing.length(0)], 1, KEY)


def test_a_publisher_that_does_not_know_how_long_its_put_takes_says_so() -> None:
    slicing, update, _, _ = made("fp32", 1000, 2)
    update.upload_s = None
    assert math.isnan(slicing.read(update.pack(slicing)[: slicing.length(0)], 0, KEY).made_s)
