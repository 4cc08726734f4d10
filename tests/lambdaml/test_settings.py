"""run.json."""

from __future__ import annotations

from typing import Any

import pytest

from lambdaml.errors import BadObject, NewerSchema, SettingsError
from lambdaml.log import wire
from lambdaml.settings import Settings, make_settings, parse_target, reached
from tests.lambdaml.lab import Tiny, settings_of

FIELDS = settings_of(Tiny(), workers=3, steps=7, schedule="ssp:2", target="accuracy>=0.9").model_dump()


def test_run_json_is_read_back_as_it_was() -> None:
    settings = Settings(**FIELDS)
    assert Settings.load(settings.dump()) == settings


def test_any_flipped_byte_or_truncation_of_run_json_is_a_bad_object() -> None:
    data = Settings(**FIELDS).dump()
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 0x10
        with pytest.raises(BadObject):
            Settings.load(bytes(damaged))
        with pytest.raises(BadObject):
            Settings.load(data[:at])


@pytest.mark.parametrize("changes", [{"workers": 0}, {"workers": "many"}, {"surprise": 1}, {"target": "soon"}], ids=str)
def test_a_run_json_that_makes_no_sense_is_a_bad_object_that_names_the_field(changes: dict[str, Any]) -> None:
    with pytest.raises(BadObject, match=next(iter(changes))):
        Settings.load(wire.dump_json(FIELDS | changes))


def test_a_run_json_without_a_required_field_is_a_bad_object() -> None:
    with pytest.raises(BadObject, match="steps"):
        Settings.load(wire.dump_json({name: value for name, value in FIELDS.items() if name != "steps"}))


def test_a_newer_run_json_is_told_apart_from_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(wire, "SCHEMA", wire.SCHEMA + 1)
        data = Settings(**FIELDS).dump()
    with pytest.raises(NewerSchema, match="install"):
        Settings.load(data)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"workers": 0}, "workers"),
        ({"steps": -1}, "steps"),
        ({"lease_s": 0}, "lease_s"),
        ({"lease_s": float("nan")}, "lease_s"),
        ({"patience_s": -1}, "patience_s"),
        ({"max_rejected": 0}, "max_rejected"),
        ({"max_update_norm": 0}, "max_update_norm"),
        ({"leases": 4}, "leases"),
        ({"target": "accuracy"}, "accuracy>=0.95"),
        ({"target": "accuracy=>1"}, "target"),
        ({"target": "accuracy>=1e"}, "target"),
        ({"target": "accuracy>=-"}, "target"),
        ({"pattern": "carrier pigeon"}, "pattern"),
        ({"snapshot_every": 0}, "snapshot_every"),
    ],
)
def test_a_mistake_is_refused_in_one_line_that_names_the_option(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        make_settings(**FIELDS | changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("target", "parsed"),
    [
        ("accuracy>=0.95", ("accuracy", ">=", 0.95)),
        (" loss < 1e-3 ", ("loss", "<", 0.001)),
        ("val.f1>-0.5", ("val.f1", ">", -0.5)),
        ("error<=.5", ("error", "<=", 0.5)),
    ],
)
def test_a_target_is_read(target: str, parsed: tuple[str, str, float]) -> None:
    assert parse_target(target) == parsed


@pytest.mark.parametrize(
    ("target", "value", "met"),
    [
        ("m>=0.5", 0.5, True),
        ("m>0.5", 0.5, False),
        ("m<=0.5", 0.5, True),
        ("m<0.5", 0.5, False),
        ("m>=0.5", 0.4, False),
        ("m<0.5", 0.4, True),
        ("m>=0.5", float("nan"), False),
        ("m<=0.5", float("nan"), False),
    ],
)
def test_a_target_is_met_or_not(target: str, value: float, met: bool) -> None:
    assert reached(target, {"m": value}) is met


def test_a_target_that_names_no_metric_is_refused_with_those_there_are() -> None:
    with pytest.raises(SettingsError, match="accuracy, loss"):
        reached("acuracy>=1", {"loss": 1.0, "accuracy": 0.5})
    with pytest.raises(SettingsError, match="no metrics"):
        reached("accuracy>=1", {})
