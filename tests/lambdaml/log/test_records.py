"""Updates, log entries and leases: round trips, and what is refused."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambdaml.errors import BadObject, NewerSchema
from lambdaml.log import wire
from lambdaml.log.lease import Lease
from lambdaml.log.records import Commit, Control, Digest, Entry, Stop, Update

numbers = st.integers(0, 2**40)
floats = st.floats(allow_nan=False, allow_infinity=False)
names = st.text(max_size=12)
stops = st.builds(Stop, st.sampled_from(["steps", "target", "cancelled", "diverged"]), st.none() | numbers)
digests = st.builds(Digest, numbers, st.text("0123456789abcdef", min_size=64, max_size=64))
bodies = st.lists(st.floats(width=32, allow_nan=False), max_size=6).map(lambda v: {"gradient": np.array(v, np.float32)})
updates = st.builds(
    Update,
    worker=st.integers(0, 99_998),
    seq=numbers,
    base=numbers,
    generation=numbers,
    function=names,
    samples=st.integers(1, 2**31),
    loss=floats,
    codec=names,
    upload_s=st.none() | st.just(0.25),
    digest=st.none() | digests,
    stop=st.none() | stops,
    body=bodies,
)
applied = st.builds(Entry, numbers, numbers, numbers, numbers, numbers, floats, numbers, floats)
refused = st.builds(
    Entry,
    *[numbers] * 5,
    floats,
    numbers,
    st.just(0.0),
    st.sampled_from(["discarded", "rejected"]),
    names,
)
commits = st.builds(
    Commit,
    numbers,
    numbers,
    st.lists(st.lists(applied, min_size=1, max_size=3).map(tuple), max_size=3).map(tuple),
    st.lists(refused, max_size=3).map(tuple),
    st.none() | stops,
    st.none() | digests,
    names,
    st.just(1.25),
    st.just(0.5),
    st.floats(0, 1),
)

UPDATE = Update(3, 7, 5, 2, "host.1.4", 32, 0.75, "fp32", body={"gradient": np.arange(4, dtype=np.float32)})
COMMIT = Commit(
    4,
    9,
    ((Entry(0, 4, 9, 1, 8, 0.1, 0, 0.5), Entry(1, 4, 9, 1, 8, 0.3, 0, 0.5)),),
    (Entry(2, 4, 8, 1, 8, 0.3, 1, 0.0, "discarded", "late"),),
    Stop("target", 6),
    Digest(8, "a" * 64),
    "host.1.4",
    2.5,
)
LEASE = Lease(3, 2, "host.1.4", 30.0)


@given(updates)
def test_an_update_is_read_back_as_it_was(update: Update) -> None:
    data = update.pack()
    found = Update.unpack(data, update.worker, update.seq)
    assert found.size_bytes == len(data)
    assert found.body["gradient"].tobytes() == update.body["gradient"].tobytes()
    expected, read = asdict(replace(update, body={}, size_bytes=0)), asdict(replace(found, body={}, size_bytes=0))
    assert read == expected


@given(commits)
def test_a_log_entry_is_read_back_as_it_was(commit: Commit) -> None:
    assert Commit.unpack(commit.pack(), commit.commit) == commit


@given(st.builds(Lease, numbers, numbers, names, floats, st.booleans()))
def test_a_lease_is_read_back_as_it_was(lease: Lease) -> None:
    assert Lease.unpack(lease.pack(), lease.worker, lease.generation) == lease


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_becomes_nan(loss: float) -> None:
    update = replace(UPDATE, loss=loss)
    found_update = Update.unpack(update.pack(), 3, 7)
    assert math.isnan(found_update.loss)
    assert found_update.fingerprint() == update.fingerprint(), (
        "who computes it again has the loss that was written over"
    )
    entry = replace(COMMIT.applied[0], loss=loss)
    found = Commit.unpack(replace(COMMIT, steps=((entry,),)).pack(), 4)
    assert math.isnan(found.applied[0].loss)
    assert found.applied[0].weight == entry.weight


def test_the_readers_findings_are_no_part_of_an_update() -> None:
    found = Update.unpack(replace(UPDATE, fault="mine", download_s=3.0, size_bytes=9).pack(), 3, 7)
    assert (found.fault, found.download_s) == ("", 0.0)


@given(updates)
def test_packing_an_update_twice_gives_the_same_bytes(update: Update) -> None:
    assert update.pack() == update.pack()


@pytest.mark.parametrize(("worker", "seq"), [(2, 7), (3, 8), (7, 3)])
def test_an_update_under_another_key_is_refused(worker: int, seq: int) -> None:
    with pytest.raises(BadObject, match=r"holds update \(3, 7\)"):
        Update.unpack(UPDATE.pack(), worker, seq)


def test_a_log_entry_or_a_lease_under_another_key_is_refused() -> None:
    with pytest.raises(BadObject, match="holds commit 4"):
        Commit.unpack(COMMIT.pack(), 5)
    for worker, generation in [(3, 3), (2, 2)]:
        with pytest.raises(BadObject, match="holds the lease of worker 3"):
            Lease.unpack(LEASE.pack(), worker, generation)


def test_any_flipped_byte_or_truncation_of_any_record_is_a_bad_object() -> None:
    subjects: list[tuple[bytes, Any]] = [
        (UPDATE.pack(), lambda data: Update.unpack(data, 3, 7)),
        (COMMIT.pack(), lambda data: Commit.unpack(data, 4)),
        (LEASE.pack(), lambda data: Lease.unpack(data, 3, 2)),
    ]
    for data, unpack in subjects:
        for at in range(len(data)):
            damaged = bytearray(data)
            damaged[at] ^= 0x04 if at % 2 else 0x40
            with pytest.raises(BadObject):
                unpack(bytes(damaged))
            with pytest.raises(BadObject):
                unpack(data[:at])


def header(**changes: Any) -> bytes:
    """An update whose envelope is sound and whose header was changed; `...` removes a field."""
    fields, body = wire.unpack(UPDATE.pack(), "k")
    fields |= changes
    return wire.pack({name: value for name, value in fields.items() if value is not ...}, list(body.items()))[0]


def test_the_unchanged_header_is_an_update() -> None:
    assert Update.unpack(header(), 3, 7).id == (3, 7)


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": ...},
        {"base": ...},
        {"samples": ...},
        {"loss": "low"},
        {"loss": [1]},
        {"base": "5"},
        {"base": None},
        {"base": 5.5},
        {"base": -1},
        {"samples": "8"},
        {"samples": 0},
        {"samples": -8},
        {"samples": 1.5},
        {"generation": None},
        {"generation": "2"},
        {"digest": [1, 2, 3]},
        {"digest": ["1", 2]},
        {"stop": {"reason": "because"}},
        {"stop": {"version": 3}},
        {"stop": {"reason": "target", "version": "3"}},
        {"stop": 5},
        {"upload_s": "fast"},
        {"ready_s": None},
    ],
    ids=str,
)
def test_a_header_that_is_not_an_updates_is_a_bad_object(changes: dict[str, Any]) -> None:
    with pytest.raises(BadObject):
        Update.unpack(header(**changes), 3, 7)


def entry_record(**changes: Any) -> bytes:
    fields = wire.load_json(COMMIT.pack(), "k") | changes
    return wire.dump_json({name: value for name, value in fields.items() if value is not ...})


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": ...},
        {"steps": 5},
        {"steps": [[[0, 1]]]},
        {"steps": [[5]]},
        {"steps": [["abcdefgh"]]},
        {"steps": [[[0, 4, 9, 1, 8, 0.1, 0, "heavy"]]]},
        {"steps": [[["0", 4, 9, 1, 8, 0.1, 0, 1.0]]]},
        {"steps": [[]], "refused": []},
        {"refused": [[0, 4, 9, 1, 8, 0.1, 0, "loved", "why"]]},
        {"version": "9"},
        {"version": None},
        {"digest": [1]},
        {"function": ...},
    ],
    ids=str,
)
def test_a_record_that_is_no_log_entry_is_a_bad_object(changes: dict[str, Any]) -> None:
    with pytest.raises(BadObject):
        Commit.unpack(entry_record(**changes), 4)


@pytest.mark.parametrize("changes", [{"duration_s": ...}, {"duration_s": "long"}], ids=str)
def test_a_record_that_is_no_lease_is_a_bad_object(changes: dict[str, Any]) -> None:
    fields = wire.load_json(LEASE.pack(), "k") | changes
    with pytest.raises(BadObject):
        Lease.unpack(wire.dump_json({k: v for k, v in fields.items() if v is not ...}), 3, 2)


def test_what_a_later_version_of_the_schema_adds_is_passed_over() -> None:
    assert Update.unpack(header(unknown=1, stop={"reason": "steps", "version": None, "more": 1}), 3, 7).stop == Stop(
        "steps"
    )
    stop = {"reason": "steps", "version": 6, "extra": 1}
    assert Commit.unpack(entry_record(stop=stop, unknown=[1]), 4).stop == Stop("steps", 6)
    fields = wire.load_json(LEASE.pack(), "k") | {"more": 1}
    assert Lease.unpack(wire.dump_json(fields), 3, 2) == LEASE


def test_control_entries_are_read_back_in_updates_and_in_log_entries() -> None:
    control = Control(2, "lr", 0.01)
    update = replace(UPDATE, control=control, base_commit=11)
    found = Update.unpack(update.pack(), 3, 7)
    assert (found.control, found.base_commit) == (control, 11)
    assert Commit.unpack(replace(COMMIT, controls=(control,)).pack(), 4).controls == (control,)
    for wrong in ({"number": "2"}, {"what": None}, {"number": ...}):
        record = {
            name: value for name, value in {"number": 2, "what": "lr", "value": 1, **wrong}.items() if value is not ...
        }
        with pytest.raises(BadObject):
            Commit.unpack(entry_record(controls=[record]), 4)
        with pytest.raises(BadObject):
            Update.unpack(header(control=record), 3, 7)


def test_a_newer_update_log_entry_or_lease_is_told_apart_from_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(wire, "SCHEMA", wire.SCHEMA + 1)
        update, commit, lease = UPDATE.pack(), COMMIT.pack(), LEASE.pack()
    with pytest.raises(NewerSchema):
        Update.unpack(update, 3, 7)
    with pytest.raises(NewerSchema):
        Commit.unpack(commit, 4)
    with pytest.raises(NewerSchema):
        Lease.unpack(lease, 3, 2)


def test_the_same_commit_by_two_functions_is_the_same() -> None:
    other = replace(COMMIT, function="another", time_s=99.0, digest=None)
    assert COMMIT.same(other)
    assert not COMMIT.same(replace(COMMIT, version=8))
    assert not COMMIT.same(replace(COMMIT, stop=None))
    assert not COMMIT.same(replace(COMMIT, refused=()))
    heavier = replace(COMMIT.applied[0], weight=0.75)
    assert not COMMIT.same(replace(COMMIT, steps=((heavier, COMMIT.applied[1]),)))
    assert not COMMIT.same(replace(COMMIT, steps=(tuple(reversed(COMMIT.steps[0])),)))


def test_a_commits_versions_and_entries_add_up() -> None:
    assert COMMIT.last_version == 10
    assert [(e.worker, e.fate) for e in COMMIT.entries] == [(0, "applied"), (1, "applied"), (2, "discarded")]
