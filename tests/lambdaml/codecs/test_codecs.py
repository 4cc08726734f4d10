"""Dense codecs against torch's own casts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lambdaml.codecs import CODECS, Layout, dense
from lambdaml.errors import SettingsError
from tests.lambdaml.codecs.coding import decode, encode, through

floats32 = hnp.arrays(np.float32, st.integers(0, 40), elements=st.floats(width=32))
patterns = hnp.arrays(np.uint32, st.integers(1, 64)).map(lambda bits: bits.view(np.float32))

EDGES = np.array(
    [
        *[0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007FFFFF, 0x00800000, 0x00007FFF, 0x00008000, 0x00018000],
        *[0x3F808000, 0x3F818000, 0x3F807FFF, 0x3F808001, 0xBF808000, 0xBF818000],  # ties go to even
        *[0x7F7FFFFF, 0xFF7FFFFF, 0x7F7F7FFF, 0x7F7F8000, 0x7F800000, 0xFF800000],  # the greatest, and infinity
        *[0x7F800001, 0x7FC00000, 0x7FFFFFFF, 0xFFFFFFFF, 0xFF800001, 0x7F80FFFF],  # NaN of every kind
    ],
    np.uint32,
).view(np.float32)


def as_torch_casts(values: np.ndarray) -> np.ndarray:
    return torch.from_numpy(values.copy()).to(torch.bfloat16).to(torch.float32).numpy()


def same_bits(left: np.ndarray, right: np.ndarray) -> bool:
    """Equal bit for bit, where any NaN equals any NaN."""
    nan = np.isnan(left)
    return bool(
        left.dtype == right.dtype
        and (nan == np.isnan(right)).all()
        and (left[~nan].view(np.uint32) == right[~nan].view(np.uint32)).all()
    )


@given(floats32)
def test_fp32_is_exact(values: np.ndarray) -> None:
    assert through("fp32", values).tobytes() == values.tobytes()


def test_fp32_keeps_the_bits_of_a_nan_and_of_double_precision() -> None:
    assert CODECS.make("fp32").values(encode("fp32", EDGES), Layout.flat(len(EDGES))).tobytes() == EDGES.tobytes()
    assert same_bits(through("fp32", EDGES), EDGES)  # in a sum, a processor may quiet a NaN that signals
    double = np.array([1 / 3, 1e300, -0.0])
    assert through("fp32", double).tobytes() == double.tobytes()


@given(patterns)
def test_bf16_is_torchs_cast_bit_for_bit(values: np.ndarray) -> None:
    assert same_bits(through("bf16", values), as_torch_casts(values))


def test_bf16_is_torchs_cast_at_every_edge_and_every_kind_of_tie() -> None:
    assert same_bits(through("bf16", EDGES), as_torch_casts(EDGES))
    exponents = np.arange(0, 0x10000, 7, dtype=np.uint32) << 16
    for low in (0x7FFF, 0x8000, 0x8001, 0xFFFF):
        values = (exponents | np.uint32(low)).view(np.float32)
        assert same_bits(through("bf16", values), as_torch_casts(values))


@given(hnp.arrays(np.float32, st.integers(1, 50), elements=st.floats(-(2.0**120), 2.0**120, width=32)))
def test_bf16_errs_by_at_most_one_part_in_256(values: np.ndarray) -> None:
    normal = np.abs(values) >= np.finfo(np.float32).tiny
    error = np.abs(through("bf16", values).astype(np.float64) - values)[normal]
    assert (error <= np.abs(values[normal].astype(np.float64)) * 2.0**-8).all()


@given(patterns)
def test_bf16_of_what_it_decoded_is_exact(values: np.ndarray) -> None:
    once = through("bf16", values)
    assert same_bits(through("bf16", once), once)


def as_numpy_halves(values: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return values.astype(np.float16).view(np.uint16)


@given(patterns)
def test_fp16_is_numpys_cast_bit_for_bit(values: np.ndarray) -> None:
    assert encode("fp16", values)["gradient"].view(np.uint16).tolist() == as_numpy_halves(values).tolist()


def test_fp16_is_numpys_cast_at_every_exponent_and_every_kind_of_tie() -> None:
    upper = np.arange(0x8000, dtype=np.uint32) << 13
    for low in (0, 1, 0x0FFF, 0x1000, 0x1001, 0x1FFF):
        for sign in (0, 0x80000000):
            values = (upper | np.uint32(sign | low)).view(np.float32)
            assert encode("fp16", values)["gradient"].tobytes() == as_numpy_halves(values).tobytes()
            below = values[np.abs(values) < 65536]  # none is infinite, nor is any NaN
            assert encode("fp16", below)["gradient"].tobytes() == as_numpy_halves(below).tobytes()


def test_fp16_decodes_every_half() -> None:
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    assert same_bits(decode("fp16", {"gradient": halves}, np.empty(2**16, np.float32)), halves.astype(np.float32))


@pytest.mark.parametrize(("name", "bits"), [("bf16", 0x7FC0), ("fp16", 0x7E00)])
def test_a_nan_in_one_block_leaves_the_others_alone(name: str, bits: int) -> None:
    values = np.linspace(-3, 3, 1000, dtype=np.float32)
    whole = encode(name, values)["gradient"].view(np.uint16)
    values[[250, 999]] = np.nan
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dense, "_BLOCK", 100)
        spoilt = encode(name, values)["gradient"].view(np.uint16)
    assert np.flatnonzero(spoilt != whole).tolist() == [250, 999]
    assert spoilt[[250, 999]].tolist() == [bits, bits]


def test_bf16_halves_the_bytes_of_single_precision() -> None:
    values = np.ones(1000, np.float32)
    sizes = [sum(part.nbytes for part in encode(name, values).values()) for name in ("fp32", "bf16")]
    assert sizes == [4000, 2000]


def test_a_codec_refuses_the_other_codecs_body() -> None:
    values = np.ones(4, np.float32)
    assert CODECS.make("fp32").check(encode("bf16", values), Layout.flat(4)) != ""
    assert CODECS.make("bf16").check(encode("fp32", values), Layout.flat(4)) != ""


def test_an_unknown_codec_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(SettingsError, match=r"no codec 'fp23'.*'fp32'"):
        CODECS.make("fp23")
