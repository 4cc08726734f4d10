"""Bytes: what is written is read back, and what is damaged or lies is refused by name, never by accident."""

from __future__ import annotations

import json
import math
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lambdaml.errors import BadObject, NewerSchema, OlderSchema
from lambdaml.log import wire

DTYPES = ["float32", "float64", "float16", "uint16", "uint8", "int8", "int32", "int64", "bool"]

text = st.text(st.characters(codec="utf-8"), max_size=20)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4), max_leaves=10
)
records = st.dictionaries(text.filter(lambda name: name not in ("schema", "crc32", "parts")), values, max_size=5)
arrays = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)


def envelope(header: Any, payload: bytes = b"") -> bytes:
    """An envelope whose checksum is right, whatever its header says."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<4sIII", b"LML1", len(raw), zlib.crc32(raw + payload), 0) + raw + payload


def pack(header: dict[str, Any], parts: list[wire.ArrayPart]) -> bytes:
    return wire.pack(header, parts)[0]


def record(body: bytes) -> bytes:
    """A JSON record whose checksum is right; `body` is an object without its closing brace."""
    return b'%b,"crc32":"%08x"}' % (body, zlib.crc32(body))


@given(records)
def test_a_json_record_is_read_back_as_it_was(content: dict[str, Any]) -> None:
    assert wire.load_json(wire.dump_json(content), "k") == content


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_json_keeps_every_bit_of_a_float(number: float) -> None:
    found = wire.load_json(wire.dump_json({"x": number}), "k")["x"]
    assert struct.pack("<d", found) == struct.pack("<d", number)


def test_a_json_record_is_one_line_with_its_schema_first_and_its_checksum_last() -> None:
    data = wire.dump_json({"a": 1})
    assert b"\n" not in data
    assert list(json.loads(data)) == ["schema", "a", "crc32"]


def test_a_number_that_json_does_not_know_is_refused_when_writing() -> None:
    for number in (math.nan, math.inf):
        with pytest.raises(ValueError, match="JSON"):
            wire.dump_json({"x": number})


@given(records, st.lists(st.tuples(text, arrays), max_size=3, unique_by=lambda part: part[0]))
def test_an_envelope_is_read_back_as_it_was(header: dict[str, Any], parts: list[wire.ArrayPart]) -> None:
    found, bodies = wire.unpack(pack(header, parts), "k")
    assert found == header
    assert list(bodies) == [name for name, _ in parts]
    for name, array in parts:
        assert (bodies[name].dtype, bodies[name].shape) == (array.dtype, array.shape)
        assert bodies[name].tobytes() == array.tobytes()


@given(st.lists(st.tuples(text, arrays), max_size=3, unique_by=lambda part: part[0]))
def test_packing_hands_back_the_arrays_as_they_stand_in_the_envelope(parts: list[wire.ArrayPart]) -> None:
    data, views = wire.pack({}, parts)
    _, found = wire.unpack(data, "k")
    assert list(views) == list(found) == [name for name, _ in parts]
    for name, array in parts:
        assert (views[name].dtype, views[name].shape) == (array.dtype, array.shape)
        assert views[name].tobytes() == array.tobytes()
        assert not array.size or np.shares_memory(views[name], np.frombuffer(data, np.uint8))


def test_the_arrays_of_an_envelope_are_aligned_views_that_nobody_can_write() -> None:
    array = np.arange(8, dtype=np.float64)
    data = pack({"a": "x" * 17}, [("g", array)])
    _, bodies = wire.unpack(data, "k")
    assert not bodies["g"].flags.writeable
    assert np.shares_memory(bodies["g"], np.frombuffer(data, np.uint8))
    assert (len(data) - array.nbytes) % 64 == 0


@pytest.mark.parametrize("mask", [0x01, 0x02, 0x08, 0x20, 0x80, 0xFF])
def test_any_flipped_byte_of_a_json_record_is_a_bad_object(mask: int) -> None:
    data = wire.dump_json({"commit": 3, "steps": [[[0, 1, 2, 0.5, None]]], "text": "a\\u00e9"})
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= mask
        with pytest.raises(BadObject, match="key-of-it"):
            wire.load_json(bytes(damaged), "key-of-it")


@pytest.mark.parametrize("mask", [0x01, 0x02, 0x08, 0x20, 0x80, 0xFF])
def test_any_flipped_byte_of_an_envelope_is_a_bad_object(mask: int) -> None:
    data = pack({"worker": 3, "loss": 0.5}, [("g", np.arange(5, dtype=np.float32))])
    for at in [at for at in range(len(data)) if not 12 <= at < 16]:
        damaged = bytearray(data)
        damaged[at] ^= mask
        with pytest.raises(BadObject, match="key-of-it"):
            wire.unpack(bytes(damaged), "key-of-it")


def test_a_flipped_byte_of_the_reserved_word_is_a_bad_object() -> None:
    data = pack({"worker": 3}, [("g", np.arange(5, dtype=np.float32))])
    for at in range(12, 16):
        damaged = bytearray(data)
        damaged[at] ^= 1
        with pytest.raises(BadObject):
            wire.unpack(bytes(damaged), "k")


def test_every_truncation_is_a_bad_object_and_so_is_what_has_grown() -> None:
    plain = wire.dump_json({"commit": 3})
    packed = pack({"worker": 3}, [("g", np.arange(5, dtype=np.float32))])
    for keep in range(len(plain)):
        with pytest.raises(BadObject):
            wire.load_json(plain[:keep], "k")
    for keep in range(len(packed)):
        with pytest.raises(BadObject):
            wire.unpack(packed[:keep], "k")
    with pytest.raises(BadObject):
        wire.load_json(plain + b"}", "k")
    with pytest.raises(BadObject):
        wire.unpack(packed + b"\0", "k")


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_bad_objects(data: bytes) -> None:
    for blob in (data, b"LML1" + data):
        with pytest.raises(BadObject):
            wire.unpack(blob, "k")
        with pytest.raises(BadObject):
            wire.load_json(blob, "k")


@pytest.mark.parametrize("schema", [wire.SCHEMA + 1, 99])
def test_a_newer_schema_is_told_apart_from_damage(schema: int) -> None:
    with pytest.raises(NewerSchema, match=f"schema {schema}.*install"):
        wire.load_json(record(b'{"schema":%d,"x":1' % schema), "k")
    with pytest.raises(NewerSchema, match=f"schema {schema}.*install"):
        wire.unpack(envelope({"schema": schema, "parts": []}), "k")


def test_an_older_schema_is_told_apart_from_damage() -> None:
    for read, data in (
        (wire.load_json, record(b'{"schema":1,"x":1')),
        (wire.unpack, envelope({"schema": 1, "parts": []})),
    ):
        with pytest.raises(OlderSchema, match="schema 1.*the version that wrote it"):
            read(data, "k")


@pytest.mark.parametrize("schema", [b"", b'"schema":"1"', b'"schema":null', b'"schema":1.5'])
def test_a_record_without_a_schema_we_know_is_a_bad_object(schema: bytes) -> None:
    with pytest.raises(BadObject):
        wire.load_json(record(b"{" + (schema or b'"x":1')), "k")
    with pytest.raises(BadObject):
        wire.unpack(envelope(b"{" + schema + (b"," if schema else b"") + b'"parts":[]}'), "k")


@pytest.mark.parametrize("content", [b"[1]", b"1", b'"text"', b"null", b"[" * 100_000 + b"]" * 100_000])
def test_json_that_is_no_record_is_a_bad_object(content: bytes) -> None:
    with pytest.raises(BadObject):
        wire.load_json(content, "k")
    with pytest.raises(BadObject):
        wire.unpack(envelope(content), "k")


LIES: dict[str, Any] = {
    "more than there is": [["g", "float32", [3]]],
    "less than there is": [["g", "float32", [1]]],
    "a negative side": [["g", "float32", [-1]]],
    "two negative sides": [["g", "float32", [-2, -1]]],
    "a side that overflows": [["g", "float32", [2**32, 2**32]]],
    "a product that overflows to what is there": [["g", "float32", [2**62 + 1, 2]]],
    "a side beyond 64 bits": [["g", "float32", [2**70]]],
    "a fraction": [["g", "float32", [2.5]]],
    "a whole number written as a fraction": [["g", "float32", [2.0]]],
    "a shape that is text": [["g", "float32", "2"]],
    "no shape": [["g", "float32"]],
    "an object dtype": [["g", "object", [1]]],
    "a dtype of another width": [["g", "float64", [2]]],
    "a dtype that is unknown": [["g", "complex64", [1]]],
    "a dtype that is a list": [["g", ["float32"], [2]]],
    "a structured dtype": [["g", "f4,f4", [1]]],
    "a big-endian dtype": [["g", ">f4", [2]]],
    "a name twice": [["g", "float32", [1]], ["g", "float32", [1]]],
    "a name that is a list": [[["g"], "float32", [2]]],
    "parts that are no list": 5,
    "parts that are a record": {"g": 1},
    "a part that is null": [None],
    "sixty-five sides": [["g", "float32", [1] * 65 + [2]]],
}


@pytest.mark.parametrize("parts", LIES.values(), ids=LIES)
def test_a_header_that_lies_about_its_payload_is_a_bad_object(parts: Any) -> None:
    with pytest.raises(BadObject):
        wire.unpack(envelope({"schema": wire.SCHEMA, "parts": parts}, b"\0" * 8), "k")


def test_a_header_without_parts_is_a_bad_object() -> None:
    with pytest.raises(BadObject):
        wire.unpack(envelope({"schema": wire.SCHEMA}), "k")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_does_not_know_are_refused_when_reading(number: str) -> None:
    record = f'{{"schema":{wire.SCHEMA},"time_s":{number}'.encode()
    with pytest.raises(BadObject):
        wire.load_json(b'%b,"crc32":"%08x"}' % (record, zlib.crc32(record)), "k")
    with pytest.raises(BadObject):
        wire.unpack(envelope(b'{"schema":%d,"loss":%b,"parts":[]}' % (wire.SCHEMA, number.encode())), "k")


def test_a_huge_array_that_is_announced_but_not_there_costs_no_memory() -> None:
    with pytest.raises(BadObject):
        wire.unpack(envelope({"schema": wire.SCHEMA, "parts": [["g", "float64", [2**40]]]}, b"\0" * 8), "k")
