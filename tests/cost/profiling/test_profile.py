"""The profile's record: what it gives to a simulation, and its file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lambdaml.cost.profiling.profile import SCHEMA_VERSION, Profile
from lambdaml.errors import NewerSchema, UserError
from lambdaml.simulation.channel import Channel
from tests.cost.profiles import digits


def test_costs_are_those_of_any_batch_size_and_codec() -> None:
    costs = digits().costs(100, "bf16")
    assert costs.step_s == pytest.approx(0.0004 + 2e-6 * 100)
    assert (costs.encode_s, costs.apply_s, costs.update_bytes) == (0.0002, 0.0002, 19_220)
    assert costs.apply_update_s == pytest.approx(0.00012)
    assert costs.snapshot_bytes == 39_216
    assert digits().costs() == digits().costs(32, "fp32")


def test_a_slow_function_takes_longer_for_everything_and_writes_the_same() -> None:
    plain, slow = digits().costs(), digits().costs(slowdown=2.0)
    for name in ("step_s", "encode_s", "apply_s", "apply_update_s"):
        assert getattr(slow, name) == pytest.approx(2 * getattr(plain, name))
    assert (slow.update_bytes, slow.snapshot_bytes) == (plain.update_bytes, plain.snapshot_bytes)


def test_local_steps_take_an_inner_step_after_each_gradient() -> None:
    plain, local = digits().costs(), digits().costs(algorithm="local:20")
    assert local.step_s == pytest.approx(plain.step_s + digits().optimizer_s)
    assert replace(local, step_s=plain.step_s) == plain
    assert digits().costs(algorithm="local:20,inner=keep").memory_bytes == 39_216 - 38_760


def test_an_update_of_fragments_takes_a_share_of_what_the_whole_model_takes_and_an_optimizer_step_as_long() -> None:
    plain, shared = digits().costs(algorithm="local:20"), digits().costs(algorithm="local:20,fragments=4")
    for name in ("encode_s", "apply_update_s", "update_bytes"):
        assert getattr(shared, name) == pytest.approx(getattr(plain, name) / 4)
    assert (shared.step_s, shared.apply_s) == (plain.step_s, plain.apply_s)
    assert shared.memory_bytes == digits().codecs["fp32"].update_bytes, "its own values of the whole model"


def test_an_unknown_codec_is_a_mistake_of_the_user() -> None:
    with pytest.raises(UserError, match=r"no codec 'fp61' \(did you mean"):
        digits().costs(codec="fp61")


def test_the_store_is_a_channel_with_the_latencies_that_were_met() -> None:
    store = digits().store
    assert store is not None
    channel = store.channel(like=Channel.parse("s3-standard"))
    assert channel.latency_s("get", 0.5) == pytest.approx(0.010, rel=0.1)
    assert channel.transfer_s(50_000_000) == pytest.approx(1.0)
    assert channel.writes_per_s == Channel.parse("s3-standard").writes_per_s
    assert replace(store, read_bytes_per_s=None).channel().transfer_s(10**9) == 0


def test_a_profile_comes_back_from_its_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "digits.profile.json"
    digits().dump(path)
    assert Profile.load(path) == digits()
    assert json.loads(path.read_text())["schema_version"] == SCHEMA_VERSION


def test_without_store_noise_coherence_and_pilots_too(tmp_path: Path) -> None:
    bare = replace(digits(), store=None, noise=None, coherence=None, target=None, pilot=())
    bare.dump(tmp_path / "bare.json")
    assert Profile.load(tmp_path / "bare.json") == bare


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"schema_version": None}, "its schema_version is None"),
        ({"optimizer_s": "long"}, "optimizer_s: "),
        ({"optimiser_s": 1.0}, "a profile has no field 'optimiser_s'"),
        ({"step_time": {"overhead_s": 1}}, "step_time.slope_s_per_sample: "),
        ({"codecs": {"fp32": 3}}, "codecs.fp32: "),
    ],
)
def test_what_is_no_profile_is_refused_by_the_field(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    digits().dump(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=r"p\.json") as caught:
        Profile.load(path)
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    digits().dump(path)
    record = json.loads(path.read_text())
    del record["memory"]
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match="memory: Field required"):
        Profile.load(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "cannot read"),
        ("{", "is not JSON"),
        ("[]", "is no profile: write one with 'lambdaml profile JOB --out FILE'"),
        ('{"step_s": 1}', "is no profile: write one"),
    ],
)
def test_a_file_that_is_none(text: str | None, says: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "p.json").write_text(text)
    with pytest.raises(UserError, match=says):
        Profile.load(tmp_path / "p.json")


def test_a_newer_profile_is_not_guessed_at(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text('{"schema_version": 2}')
    with pytest.raises(NewerSchema, match="has schema_version 2, this lambdaml reads up to 1"):
        Profile.load(path)


def test_a_profile_that_cannot_be_written_says_why(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write .*: No such file"):
        digits().dump(tmp_path / "nowhere" / "p.json")
