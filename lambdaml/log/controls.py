"""Changes a setting while a run goes on: a wish is `control/{number}`, and whoever writes the log puts it into the log.

A control entry takes effect after the commit that holds it, on every replica. Wishes are numbered without a gap, so
none is missed and none is taken twice.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from lambdaml.errors import SettingsError, nearest
from lambdaml.log import keys, wire
from lambdaml.log.left_out import WITHOUT
from lambdaml.log.reader import RunReader
from lambdaml.log.reads import read_many
from lambdaml.log.records import LOST_MEMORY, Control
from lambdaml.log.snapshot import meta_of
from lambdaml.log.tuned import DERIVED
from lambdaml.parts import demand_clients
from lambdaml.schedules import SCHEDULES, rounds_at_once
from lambdaml.storage.protocol import Bytes, Store

CHANGEABLE = ("lr", WITHOUT)
"""The settings that can be changed; `lr` is the optimizer's learning rate, in all its groups, and `without` the list of the
clients that are left out, which replaces an earlier one."""


def parse_change(what: str, text: str) -> float | list[int]:
    """Return the value of a setting that can be changed, as it is written: `0.01`, or `3,7`.

    Raises:
        SettingsError: If the setting does not exist, or this is no value of it.
    """
    _demand_changeable(what)
    try:
        return [int(part) for part in text.split(",") if text] if what == WITHOUT else float(text)
    except ValueError:
        kind = "a list of clients such as 3,7" if what == WITHOUT else "a number such as 0.01"
        raise SettingsError(f"{what}: {kind} (it is {text!r})") from None


def request_change(run: RunReader, what: str, value: float | Sequence[int]) -> Control:
    """Ask for a change. The function that writes the log heeds it within about five seconds.

    Raises:
        SettingsError: If this setting cannot be changed to this value, or the run has ended.
    """
    _demand_changeable(what)
    if what == WITHOUT:
        value = _clients(run, value)
    elif not (isinstance(value, int | float) and 0 < value < math.inf):
        raise SettingsError(f"lr: must be a positive number (it is {value!r})")
    if rounds_at_once(SCHEDULES.make(run.settings.schedule)):
        raise SettingsError(f"a change travels in the log, for which schedule {run.settings.schedule!r} does not wait")
    _, last, _ = run.tail()
    if last is not None and last.stop:
        raise SettingsError(f"{run.url} has ended; begin another run from it, with --from")
    if what == "lr" and meta_of(run.store, keys.snapshot(run.newest_snapshot()))["scheduler"] is not None:
        raise SettingsError("the job's scheduler decides the learning rate, so it cannot be changed from outside")
    number = sum(1 for _ in run.store.list(keys.CONTROLS))
    while True:
        control = Control(number, what, value)
        if run.store.create(keys.control(number), wire.dump_json({"what": what, "value": value})) is None:
            return control
        number += 1


def _demand_changeable(what: str) -> None:
    if what not in CHANGEABLE:
        raise SettingsError(f"{what!r} cannot be changed while a run goes on{nearest(what, CHANGEABLE)}")


def _clients(run: RunReader, value: float | Sequence[int]) -> list[int]:
    """Return the clients in rising order.

    Raises:
        SettingsError: If there are no such clients, or none may be left out of this run.
    """
    if not isinstance(value, Sequence) or any(type(client) is not int for client in value):
        raise SettingsError(f"without: a list of clients such as [3, 7] (it is {value!r})")
    demand_clients(run.settings, [*run.settings.without, *value])
    return sorted(set(value))


def read_control(data: Bytes, key: str) -> Control:
    """Read a wish back from its object.

    Raises:
        BadObject: If the object is damaged.
    """
    record = wire.load_json(data, key)
    return Control(keys.number(key), record["what"], record["value"])


def wishes(store: Store) -> list[Control]:
    """Return all wishes of a run, whether or not the log has them yet.

    Raises:
        BadObject: If one of them is damaged.
    """
    found = read_many(store, [info.key for info in store.list(keys.CONTROLS)], read_control)
    return [control for control in found if control is not None]


def lost_memories(controls: Iterable[Control]) -> list[tuple[int, int]]:
    """Return the workers whose memories began anew, each with the update before which it did."""
    return [(each.value[0], each.value[1]) for each in controls if each.what == LOST_MEMORY]


def changes(run: RunReader) -> list[tuple[Control, int | None]]:
    """Return all changes of a run, those of its tuner included, each with the log entry that holds it; None if the log has
    not got it (yet)."""
    asked = wishes(run.store)
    if not asked and run.settings.tune is None:
        return []
    held = [(control, commit.commit) for commit in run.log() for control in commit.controls]
    known = {control.number for control, _ in held}
    return held + [(control, None) for control in asked if control.number not in known]


def describe_control(control: Control) -> str:
    """Return what a control entry does, in a few words."""
    if control.what == LOST_MEMORY:
        return "the memory of worker {} began anew before update {}".format(*control.value)
    if control.what == WITHOUT:
        return f"without = {','.join(map(str, control.value)) or 'nobody'}"
    if control.number == DERIVED:
        return f"the tuner set {control.what} = {control.value:.4g}"
    return f"{control.what} = {control.value:g}"
