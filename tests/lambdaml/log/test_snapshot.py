"""Snapshots: the state as a safetensors file."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load, save

from lambdaml.errors import BadObject, NewerSchema, OlderSchema
from lambdaml.log.snapshot import State, read_model
from lambdaml.log.wire import SCHEMA
from tests.lambdaml.lab import equal

KEY = "snapshots/0000000003.safetensors"
VIEW = {"commit": 3, "version": 3, "next_seq": [3], "generation": [1], "rejected": 0}


def state() -> State:
    tensors = {
        "model/weight": torch.tensor([[1.5, -0.0], [math.nan, math.inf]]),
        "model/count": torch.tensor(7),
        "model/mask": torch.tensor([True, False]),
        "model/half": torch.tensor([1.0, 3.0], dtype=torch.bfloat16),
        "model/empty": torch.zeros(0, 3),
        "optimizer/0/exp_avg": torch.tensor([0.1], dtype=torch.float64),
    }
    meta = {
        "log_state": VIEW,
        "optimizer": {"param_groups": [{"lr": 0.1 + 0.2, "betas": (0.9, 0.999)}]},
        "scheduler": None,
    }
    return State(tensors, meta)


def test_a_state_is_read_back_bit_for_bit() -> None:
    found = State.load(state().dump(), KEY)
    assert equal(found.tensors, state().tensors)
    assert found.meta == json.loads(json.dumps(state().meta))
    assert found.version == 3
    assert found.digest() == state().digest()


def test_any_flipped_byte_of_a_snapshot_is_a_bad_object() -> None:
    data, expected = state().dump(), state().digest()
    harmless = 0
    for at in range(len(data)):
        for mask in (0x01, 0x10, 0x80):
            damaged = bytearray(data)
            damaged[at] ^= mask
            try:
                found = State.load(bytes(damaged), KEY)
            except BadObject as error:
                assert KEY in str(error)
            else:  # the last digit of a number that has more of them than it needs
                assert found.digest() == expected
                harmless += 1
    assert harmless < 3


def test_any_truncation_of_a_snapshot_is_a_bad_object() -> None:
    data = state().dump()
    for keep in range(len(data)):
        with pytest.raises(BadObject):
            State.load(data[:keep], KEY)


def test_a_newer_snapshot_is_told_apart_from_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("lambdaml.log.wire.SCHEMA", SCHEMA + 1)
        data = state().dump()
    with pytest.raises(NewerSchema):
        State.load(data, KEY)


def test_an_older_snapshot_is_told_apart_from_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("lambdaml.log.wire.SCHEMA", SCHEMA - 1)
        data = state().dump()
    with pytest.raises(OlderSchema):
        State.load(data, KEY)


@pytest.mark.parametrize(
    "metadata", [None, {}, {"state": "5"}, {"state": "[]"}, {"state": "{}"}, {"state": "{"}], ids=str
)
def test_a_safetensors_file_that_is_no_snapshot_is_a_bad_object(metadata: dict[str, str] | None) -> None:
    with pytest.raises(BadObject):
        State.load(save({"model/w": torch.ones(2)}, metadata=metadata), KEY)


def test_every_part_of_a_state_is_in_its_digest() -> None:
    whole = state()
    others = [
        State({**whole.tensors, "model/count": torch.tensor(8)}, whole.meta),
        State({**whole.tensors, "model/weight": whole.tensors["model/weight"].t().contiguous()}, whole.meta),
        State({**whole.tensors, "model/weight": whole.tensors["model/weight"].reshape(4)}, whole.meta),
        State({**whole.tensors, "model/count": torch.tensor(7, dtype=torch.int32)}, whole.meta),
        State({**whole.tensors, "model/empty": torch.zeros(3, 0)}, whole.meta),
        State({name: t for name, t in whole.tensors.items() if name != "model/empty"}, whole.meta),
        State(whole.tensors, {**whole.meta, "scheduler": {"last_epoch": 1}}),
        State(whole.tensors, {**whole.meta, "log_state": {**VIEW, "rejected": 1}}),
    ]
    assert len({whole.digest(), *[other.digest() for other in others]}) == 1 + len(others)


def test_the_order_of_names_is_not_in_the_digest() -> None:
    whole = state()
    meta = dict(reversed(whole.meta.items()))
    assert State(dict(reversed(whole.tensors.items())), meta).digest() == whole.digest()


def test_the_model_file_is_the_state_dict_that_safetensors_alone_reads(tmp_path: pytest.TempPathFactory) -> None:
    data = state().dump_model()
    assert equal(load(data), {n.removeprefix("model/"): t for n, t in state().tensors.items() if n[:6] == "model/"})
    path = f"{tmp_path}/model.safetensors"
    with open(path, "wb") as file:
        file.write(data)
    with safe_open(path, "pt") as opened:
        assert opened.metadata() == {"format": "pt"}


def test_equal_models_are_equal_files_whatever_else_differs() -> None:
    other = State({**state().tensors, "optimizer/0/exp_avg": torch.zeros(1)}, {**state().meta, "scheduler": {"a": 1}})
    assert other.dump_model() == state().dump_model()


def test_a_snapshot_does_not_need_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("pickle was used")

    for name in ("pickle.dumps", "pickle.loads", "torch.save", "torch.load"):
        monkeypatch.setattr(name, refuse)
    assert State.load(state().dump(), KEY).digest() == state().digest()


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_numbers_are_read_back_bit_for_bit_and_stand_in_the_model_file(dtype: torch.dtype) -> None:
    tensors = {"model/rot": torch.polar(torch.ones(4), torch.arange(4.0)).to(dtype)}
    found = State.load(State(tensors, {"log_state": VIEW}).dump(), KEY)
    assert equal(found.tensors, tensors)
    assert equal(read_model(found.dump_model()).model(), {"rot": tensors["model/rot"]})


def test_a_model_file_with_much_to_say_of_itself_is_the_same_bytes_each_time() -> None:
    tensors = {"model/rot": torch.ones(3, dtype=torch.complex128), "extra/_extra_state": torch.arange(3)}
    meta = {"log_state": VIEW, "extra": {"_extra_state": {"$tensor": "extra/_extra_state"}}}
    files = {State(tensors, meta).dump_model() for _ in range(20)}
    assert len(files) == 1
    assert equal(read_model(files.pop()).tensors, tensors)
