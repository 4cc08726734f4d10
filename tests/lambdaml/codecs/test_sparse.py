"""`sparse` against a plain encoder and decoder that follow its docstring, its length, its error, and its fixed bytes."""

from __future__ import annotations

import hashlib
import math
import struct
from itertools import pairwise

import numpy as np
import pytest

from lambdaml.codecs import CODECS, Layout, UpdateContext
from lambdaml.codecs.sparse import Sparse
from lambdaml.errors import SettingsError
from lambdaml.log.records import Body
from tests.lambdaml.codecs.coding import decode, encode, flat, peak_bytes, through

CHUNK = 4096
RATIOS = [0, 5 / 16, 10 / 16, 13 / 16]
SIZES = [1, 63, 64, 65, 4095, 4096, 4097, 9000]


def scale(s: int) -> float:
    return (1 + (s % 4) / 4) * 2.0 ** (s // 4 - 15) if s else 0.0


def single(number: float) -> float:
    """The nearest number of single precision."""
    return float(struct.unpack("f", struct.pack("f", number))[0])


def chosen(numbers: list[float], keep: int) -> list[int]:
    return sorted(sorted(range(CHUNK), key=lambda at: (-abs(numbers[at]), at))[:keep])


def best_scale(sizes: list[float], ratio: float) -> tuple[float, float]:
    """The numerator and the denominator of the best scale for this ratio."""
    keep, total, candidates = len(sizes), sum(sizes), []
    lower = 0.0
    for few, size in enumerate(sizes):
        above, below = (total - lower) + ratio * lower, (keep - few) + ratio * ratio * few
        candidates.append((above * above / below, -few, above, below))
        lower += size
    return max(candidates)[2:]


def plainly_encoded(vector: np.ndarray, keep: int) -> tuple[bytes, float]:
    """The records and the base, bit by bit."""
    low = 12 - int(math.log2(keep))
    numbers = [*vector.tolist(), *[0.0] * (-len(vector) % CHUNK)]
    chunks = [numbers[start : start + CHUNK] for start in range(0, len(numbers), CHUNK)]
    places = [chosen(chunk, keep) for chunk in chunks]
    kept = [[chunk[at] for at in here] for chunk, here in zip(chunks, places, strict=True)]
    fits = [[best_scale(sorted(map(abs, values)), ratio) for ratio in RATIOS] for values in kept]
    base = single(max([above / below for fit in fits for above, below in fit], default=0.0) / 1.75)
    records = bytearray()
    for here, values, fit in zip(places, kept, fits, strict=True):
        found = []
        for r, (above, below) in enumerate(fit):
            s = min(range(64), key=lambda s: (abs(scale(s) * base - above / below), s))
            size = scale(s) * base
            found.append((size * (2 * above - size * below), -r, s))
        _, r, s = max(found)
        upper, lower = single(scale(s) * base), single(RATIOS[-r] * scale(s) * base)
        bits = [0] * (2 * keep)
        for i, place in enumerate(here):
            bits[(place >> low) + i] = 1
        bits += [place >> plane & 1 for plane in range(low) for place in here]
        bits += [math.copysign(1, value) < 0 for value in values]
        bits += [abs(value) > (upper + lower) / 2 for value in values]
        records += bytes(sum(bit << i for i, bit in enumerate(bits[at : at + 8])) for at in range(0, len(bits), 8))
        records.append(64 * -r + s)
    return bytes(records), base


def plainly_decoded(records: bytes, base: float, keep: int, size: int) -> np.ndarray:
    low, width = 12 - int(math.log2(keep)), keep * (16 - int(math.log2(keep))) // 8 + 1
    vector = np.zeros(size, np.float32)
    for chunk, start in enumerate(range(0, len(records), width)):
        record = records[start : start + width]
        bits = [record[at // 8] >> (at % 8) & 1 for at in range(8 * width)]
        ones = [at for at in range(2 * keep) if bits[at]]
        for i, one in enumerate(ones):
            place = (one - i) << low
            place += sum(bits[(2 + plane) * keep + i] << plane for plane in range(low))
            negative, upper = bits[(2 + low) * keep + i], bits[(3 + low) * keep + i]
            level = scale(record[-1] % 64) * base * (1 if upper else RATIOS[record[-1] // 64])
            if chunk * CHUNK + place < size:
                vector[chunk * CHUNK + place] = -level if negative else level
    return vector


def uneven(size: int) -> np.ndarray:
    """Numbers of tails that grow heavier from chunk to chunk, some of them zeros and ties. They are the same on every
    machine: SplitMix64 gives integers, and products of float32 make numbers of them."""
    at = np.arange(size, dtype=np.uint64)
    mixed = (at + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ mixed >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ mixed >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    drawn = (mixed ^ mixed >> np.uint64(31)) >> np.uint64(44)
    unit = (drawn.astype(np.float32) - np.float32(2**19)) / np.float32(2**19)  # from -1 to 1
    vector, power = unit / np.float32(2), unit * unit
    for start in range(0, size, CHUNK):
        chunk = slice(start, start + CHUNK)
        for _ in range(start // CHUNK % 4):
            vector[chunk] /= np.float32(1.125) - power[chunk]
        vector[chunk] *= np.float32(2.0 ** -(start // CHUNK * 7 % 13))
    vector[5::11] = 0.0
    return vector


@pytest.mark.parametrize("size", SIZES)
def test_encoding_and_decoding_are_what_the_docstring_says(size: int) -> None:
    vector = uneven(size)
    body = encode("sparse", vector)
    records, base = plainly_encoded(vector, 64)
    assert body["chunks"].tobytes() == records and body["base"].tolist() == [base]
    decoded = plainly_decoded(records, base, 64, size)
    assert np.count_nonzero(decoded) >= min(size, 8)
    assert decode("sparse", body, vector).tobytes() == decoded.tobytes()


@pytest.mark.parametrize("keep", [8, 16, 32, 128, 256])
def test_other_shares_are_encoded_alike(keep: int) -> None:
    vector = uneven(5000)
    body = encode(f"sparse:{keep}", vector)
    records, base = plainly_encoded(vector, keep)
    assert body["chunks"].tobytes() == records and body["base"].tolist() == [base]
    assert decode(f"sparse:{keep}", body, vector).tobytes() == plainly_decoded(records, base, keep, 5000).tobytes()


@pytest.mark.parametrize("magnitude", [1e-45, 1e-38, 1e38, 3.4e38])
def test_tiny_and_huge_numbers_stay_finite_and_near(magnitude: float) -> None:
    vector = np.full(5000, magnitude, np.float32)
    vector[::2] *= -1
    decoded = through("sparse", vector)
    sent = decoded != 0
    assert np.flatnonzero(sent).tolist() == [*range(64), *range(4096, 4160)], "the first of equal ones"
    assert np.abs(decoded[sent] / vector[sent] - 1).max() < 0.125
    assert plainly_encoded(vector, 64)[0] == encode("sparse", vector)["chunks"].tobytes() or magnitude == 3.4e38


def test_the_greatest_numbers_beside_others_do_not_overflow() -> None:
    vector = uneven(CHUNK) * np.float32(3.4e38)
    vector[:80] = np.finfo(np.float32).max
    assert np.isfinite(through("sparse", vector)).all()


@pytest.mark.parametrize("size", [0, *SIZES])
def test_zeros_come_back_as_zeros(size: int) -> None:
    vector = np.zeros(size, np.float32)
    assert not through("sparse", vector).any()
    assert np.isfinite(CODECS.make("sparse").values(encode("sparse", vector), flat(vector))).all()


def test_of_a_chunk_with_few_numbers_nothing_else_is_sent() -> None:
    vector = np.zeros(3 * CHUNK, np.float32)
    vector[[5, 4095, 9000]] = 1.0, -1.0, 0.001
    decoded = through("sparse", vector)
    assert np.flatnonzero(decoded).tolist() == [5, 4095, 9000]
    assert np.abs(decoded - vector).max() < 0.13 and abs(decoded[9000] / 0.001 - 1) < 0.13


def test_at_ties_the_first_are_sent() -> None:
    vector = np.ones(3 * CHUNK, np.float32)
    vector[CHUNK : 2 * CHUNK : 100] = -2.0  # 41 of them
    vector[2 * CHUNK :] = np.arange(CHUNK)  # a chunk without ties beside them
    ones = [at for at in range(CHUNK, 2 * CHUNK) if vector[at] == 1.0][: 64 - 41]
    twos = list(range(CHUNK, 2 * CHUNK, 100))
    assert np.flatnonzero(through("sparse", vector)).tolist() == [
        *range(64),
        *sorted(ones + twos),
        *range(3 * CHUNK - 64, 3 * CHUNK),
    ]


@pytest.mark.parametrize("size", [10**6, 10**7, 10**9])
def test_a_parameter_takes_at_most_16_hundredths_of_a_bit(size: int) -> None:
    assert CODECS.make("sparse").record == (4096, 81)
    assert 8 * CODECS.make("sparse").expected_bytes(Layout.flat(size)) / size <= 0.16


@pytest.mark.parametrize("size", [0, 1, 4096, 4097, 10**6])
@pytest.mark.parametrize("keep", [8, 64, 256])
def test_the_bytes_of_an_update_are_known_beforehand(size: int, keep: int) -> None:
    codec = Sparse(keep)
    body = encode(codec, uneven(size))
    assert sum(part.nbytes for part in body.values()) == codec.expected_bytes(Layout.flat(size))
    assert body["chunks"].shape[1] == codec.record[1]


def test_every_machine_makes_the_same_bytes_and_the_same_numbers_of_them() -> None:
    vector = uneven(200_000)
    body = encode("sparse", vector)
    hashes = [
        hashlib.sha256(array.tobytes()).hexdigest()[:16]
        for array in (vector, body["chunks"], body["base"], decode("sparse", body, vector))
    ]
    assert hashes == ["4f78062a8e51008d", "c7b32894732a3365", "d65680e1b8d141a2", "4d3cadf1df524547"]
    assert set(np.unique(body["chunks"][:, -1] // 64)) == {0, 2, 3} and len(np.unique(body["chunks"][:, -1])) > 40


@pytest.mark.parametrize("weight", [1.0, 0.3, -2.0])
def test_any_slice_is_added_to_what_is_there_and_nothing_else_is_touched(weight: float) -> None:
    vector = uneven(9000)
    codec, body, whole = CODECS.make("sparse"), encode("sparse", vector), through("sparse", vector)
    cuts = [0, 1, 64, 65, 4095, 4096, 4097, 5000, 5000, 8191, 8999, 9000]
    before = np.linspace(-1, 1, 9000).astype(np.float32)
    for fresh in (False, True):
        pieces = before.copy()
        for start, stop in pairwise(cuts):
            codec.add(body, weight, pieces[start:stop], flat(vector), slice(start, stop), fresh=fresh)
        expected = whole * np.float32(weight) if fresh else before + whole * np.float32(weight)
        assert pieces.tobytes() == expected.tobytes()


def test_many_blocks_of_chunks_give_what_one_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    vector = uneven(9 * CHUNK + 7)
    body, decoded = encode("sparse", vector), through("sparse", vector)
    held = CODECS.make("sparse").values(body, flat(vector))
    monkeypatch.setattr("lambdaml.codecs.sparse._ROWS", 2)
    assert {name: part.tobytes() for name, part in encode("sparse", vector).items()} == {
        name: part.tobytes() for name, part in body.items()
    }
    assert through("sparse", vector).tobytes() == decoded.tobytes()
    assert CODECS.make("sparse").values(body, flat(vector)).tobytes() == held.tobytes()


def test_a_vector_is_encoded_and_added_without_arrays_of_its_size() -> None:
    vector = uneven(6_000_000)
    codec, total = CODECS.make("sparse"), np.zeros_like(vector)
    with peak_bytes(vector.nbytes // 2 - 1):  # blocks of 2^19 numbers, and what is sent
        body = codec.encode(vector, flat(vector), UpdateContext())
        codec.add(body, 0.5, total, flat(vector), slice(0, len(vector)))
    assert np.count_nonzero(total) > 40_000


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_more_that_is_not_finite_than_is_sent_makes_all_numbers_so(bad: float) -> None:
    vector = uneven(9000)
    vector[4096:8000] = bad
    held = CODECS.make("sparse").values(encode("sparse", vector), flat(vector))
    assert len(held) == 3 * 64 and not np.isfinite(held).any()


def spoilt(**parts: np.ndarray) -> Body:
    return {**encode("sparse", uneven(5000)), **parts}


def record(places: list[int]) -> np.ndarray:
    """Two records with these places of 64 in the first."""
    chunks = encode("sparse", uneven(5000))["chunks"]
    bits = np.zeros(64 * 8, np.uint8)
    for i, place in enumerate(places):
        bits[(place >> 6) + i] = 1
        bits[[128 + 64 * plane + i for plane in range(6) if place >> plane & 1]] = 1
    chunks[0, :64] = np.packbits(bits, bitorder="little")
    return chunks


def test_a_body_of_which_the_places_cannot_be_read_is_refused() -> None:
    codec, layout, last = CODECS.make("sparse"), Layout.flat(5000), list(range(4032, 4096))
    for good in (list(range(64)), last, list(range(0, 4096, 64))):
        assert codec.check(spoilt(chunks=record(good)), layout) == ""
    for bad, fault in [
        (last[:-1], "number of places that is not 64"),
        ([], "number of places that is not 64"),
        ([0, *last[1:-2], 4095, 4095], "do not rise"),
        ([7, 7, *last[2:]], "do not rise"),
        ([7, 6, *last[2:]], "do not rise"),
        ([*last[:-1], 4096], "do not rise"),
        ([*last[:-1], 4096 + 63], "do not rise"),
    ]:
        assert fault in codec.check(spoilt(chunks=record(bad)), layout), bad


def test_a_body_of_other_arrays_is_refused() -> None:
    codec, layout, good = CODECS.make("sparse"), Layout.flat(5000), spoilt()
    assert codec.check(good, layout) == ""
    for bad in (
        {"chunks": good["chunks"]},
        spoilt(more=good["base"]),
        spoilt(chunks=good["chunks"][:, :-1]),
        spoilt(chunks=good["chunks"].astype(np.int8)),
        spoilt(base=np.zeros((1, 1), np.float32)),
        spoilt(base=np.zeros(1)),
    ):
        assert "\n" not in codec.check(bad, layout) != ""
    for size in (4096, 8193):
        assert "has chunks of shape (2, 81) uint8" in codec.check(good, Layout.flat(size))


def test_any_bytes_are_refused_or_decoded() -> None:
    codec, layout, draw = CODECS.make("sparse"), Layout.flat(5000), np.random.default_rng(0)
    verdicts = []
    for turn in range(300):
        body = spoilt(base=draw.integers(0, 256, 4, np.uint8).view(np.float32))
        few = draw.integers(0, 2 * 81, 3 if turn % 2 else 160)
        body["chunks"].reshape(-1)[few] = draw.integers(0, 256, len(few), np.uint8)
        verdicts.append(codec.check(body, layout) == "")
        if verdicts[-1]:
            with np.errstate(all="ignore"):
                assert len(codec.values(body, layout)) <= 128
                decode("sparse", body, np.zeros(5000, np.float32))
    assert 20 < sum(verdicts) < 280


@pytest.mark.parametrize("base", [float("nan"), float("inf"), float("-inf")])
def test_the_numbers_of_a_base_that_is_not_finite_are_not(base: float) -> None:
    body = spoilt(base=np.array([base], np.float32))
    assert CODECS.make("sparse").check(body, Layout.flat(5000)) == ""
    assert not np.isfinite(CODECS.make("sparse").values(body, Layout.flat(5000))).any()


def test_no_chunk_has_a_larger_error_than_its_norm_however_far_it_is_below_the_others() -> None:
    vector = np.random.default_rng(3).standard_normal((40, CHUNK)) * 2.0 ** -np.arange(40)[:, None]
    decoded = through("sparse", vector.astype(np.float32).reshape(-1)).reshape(40, CHUNK)
    left = np.linalg.norm(vector - decoded, axis=1) / np.linalg.norm(vector, axis=1)
    assert (left <= 1).all() and (left[:15] < 0.95).all()
    assert not decoded[20:].any()


def test_what_was_left_out_is_sent_in_the_end() -> None:
    draw = np.random.default_rng(4)
    vector = draw.laplace(size=4 * CHUNK).astype(np.float32)
    vector[:CHUNK] *= 1e-4
    vector[2 * CHUNK : 3 * CHUNK] *= draw.random(CHUNK) < 0.01
    sent = np.zeros_like(vector)
    for _ in range(200):
        sent += through("sparse", vector - sent)
    for start in range(0, 4 * CHUNK, CHUNK):
        chunk = slice(start, start + CHUNK)
        assert np.linalg.norm((vector - sent)[chunk]) < 0.01 * np.linalg.norm(vector[chunk])


@pytest.mark.parametrize(("kind", "share"), [("normal", 0.006), ("laplace", 0.016), ("t4", 0.055)])
def test_levels_add_little_to_the_error_of_sending_so_few(kind: str, share: float) -> None:
    """The squared error of what is sent, as a share of its squares; all of what is not sent is an error anyway."""
    draw = np.random.default_rng(7)
    vector = draw.standard_t(4, 50 * CHUNK) if kind == "t4" else getattr(draw, kind)(size=50 * CHUNK)
    chunks = vector.astype(np.float32).reshape(-1, CHUNK)
    decoded = through("sparse", chunks.reshape(-1)).reshape(-1, CHUNK)
    least = np.sort(np.abs(chunks), axis=1)[:, -64, None]
    ideal = np.where(np.abs(chunks) >= least, chunks, 0).astype(float)
    assert ((ideal != 0).sum(axis=1) == 64).all()
    assert share / 2 < ((ideal - decoded) ** 2).sum() / (ideal**2).sum() < share


@pytest.mark.parametrize("keep", [0, 4, 48, 100, 512, -64])
def test_a_share_that_makes_no_whole_record_is_refused(keep: int) -> None:
    with pytest.raises(SettingsError, match=f"keep must be a power of two from 8 to 256, not {keep}"):
        CODECS.make(f"sparse:{keep}")


def test_vectors_in_double_precision_are_refused_and_error_feedback_is_asked_for() -> None:
    codec = CODECS.make("sparse")
    assert "float32" in codec.misfit(Layout.flat(5, "float64")) and codec.misfit(Layout.flat(5)) == ""
    assert codec.feedback and not codec.exact
