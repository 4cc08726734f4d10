"""What a run has spent is counted from its bucket alone, each function once, and what is not known is bounded."""

import time

import pytest

from lambdaml.engines import Enough, LaunchSpec
from lambdaml.engines.invoke import Invoker, Work
from lambdaml.engines.lambda_engine import _Following
from lambdaml.engines.tally import Tally
from lambdaml.events import Event
from lambdaml.log import keys
from lambdaml.log.launches import Launch, name_of
from lambdaml.log.trace_parts import pack_rows
from lambdaml.log.usage import Usage
from lambdaml.storage import MeterReading, Store
from tests.lambdaml.lab import Tiny, broken_off, train

SILENT_S = 30.0
"""The lease of the run, which is longer than the time between two parts of a trace."""


def ended(store: Store, name: str, seconds: float, gets: int) -> None:
    store.create(keys.usage(name), Usage(name, seconds, 0, MeterReading({"get": gets}), True).dump())


def told(store: Store, name: str, seconds: float, gets: int) -> None:
    meter = {"kind": "meter", "seconds": seconds, **MeterReading({"get": gets}).to_dict()}
    store.put(keys.trace_part(name, 0), pack_rows([{"kind": "meter", "seconds": 0.0, **MeterReading().to_dict()}]))
    store.put(keys.trace_part(name, 1), pack_rows([{"kind": "function"}, meter]))


def test_what_is_in_the_bucket_counts_once_and_what_is_not_is_bounded() -> None:
    run = train(workers=2, steps=4, lease_s=SILENT_S)
    store, before = run.store, run.usage()
    launch = Launch(store, "aa")
    launch.begin({})
    earlier = sum(each.reading.total for each in before), sum(not each.launcher for each in before)
    for index in range(4):
        launch.claim(index, 0)
    launch.claim(0, 1)
    first, left, gone = (name_of("aa", index, 0) for index in range(3))  # function 3 has not shown itself
    tally = Tally(store, launch)
    ended(store, first, 20.0, 100)
    ended(store, "evaluate-aa.8.0-123456", 2.0, 10)
    told(store, left, 5.0, 50)
    told(store, gone, 7.0, 70)
    for _ in range(2):  # looking does not count anything again
        spent = tally.if_stopped(time.time() + 4.0, 10.0, MeterReading({"get": 6}), 3.0)
        unknown_s = 4 * (4.0 + 10.0)  # of `left`, `gone`, function 3, and the second life of function 0
        assert spent.invocations == earlier[1] + 6
        assert spent.function_seconds == pytest.approx(
            sum(each.seconds for each in before if not each.launcher) + 20 + 2 + 5 + 7 + unknown_s, abs=1.0
        )
        assert spent.reading.total == pytest.approx(earlier[0] + 230 + 2 * unknown_s, abs=2.0)
        assert spent.seconds == pytest.approx(14.0, abs=1.0)
        launched_s = sum(each.seconds for each in before if each.launcher)
        assert spent.run_seconds == pytest.approx(launched_s + spent.seconds)
    silent = tally.if_stopped(time.time() + 1000.0, 10.0, MeterReading({"get": 6}), 3.0)
    assert silent.function_seconds == pytest.approx(spent.function_seconds + 4 * (SILENT_S - 14.0), abs=1.0)
    ended(store, left, 6.0, 55)
    known = tally.if_stopped(time.time() + 1000.0, 10.0, MeterReading({"get": 6}), 3.0)
    assert known.function_seconds == pytest.approx(silent.function_seconds + 1.0 - SILENT_S)
    assert known.reading.total == silent.reading.total + 5 - 2 * SILENT_S


class Reached(Invoker):
    """Invokes nothing: functions have found at once that the cap is reached."""

    def __init__(self) -> None: ...

    def start(self, launch: Launch, work: Work, by: str = "") -> int:
        assert work.cap == {"max_requests": 5}
        assert Work.of_event(work.to_event()) == work
        launch.leave("that is enough")
        return work.functions


def test_a_launcher_hears_of_the_cap_that_functions_found_to_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lambdaml.engines.lambda_engine.FUNCTIONS_S", 0.0)
    run = broken_off(workers=2, steps=8)
    spec = LaunchSpec(run.store, run.settings, Tiny(), 2, cap={"max_requests": 5})
    events: list[Event] = []
    with pytest.raises(Enough, match="that is enough"):
        _Following(Reached(), spec, events.append).run()
    assert run.status().reason == "that is enough"
