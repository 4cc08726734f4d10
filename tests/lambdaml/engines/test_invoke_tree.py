"""The tree in which functions start each other: each is started once, and the depth is logarithmic."""

from collections.abc import Collection, Mapping
from typing import Any

import pytest

from benchmarks.lambda_start import Starting, flat, floor
from lambdaml.engines.invoke import FAN_OUT, Invoker, NoRoom, Work, ranges
from lambdaml.log.launches import Launch
from lambdaml.simulation.platform import Platform
from lambdaml.storage import open_store


@pytest.mark.parametrize("functions", [1, 2, 32, 33, 256, 1000, 1056, 1057, 10_000])
def test_each_function_is_started_once_and_the_levels_are_as_few_as_the_fan_out_allows(functions: int) -> None:
    started: list[int] = []
    callers, levels = [(0, functions)], 0
    while callers:
        called = [part for first, last in callers for part in ranges(first, last)]
        assert all(len(list(ranges(*caller))) <= FAN_OUT for caller in callers)
        started += [first for first, _ in called]
        callers = [(first + 1, last) for first, last in called if first + 1 < last]
        levels += 1
    assert sorted(started) == list(range(functions))
    room, least = 0, 0
    while room < functions:
        least += 1
        room += FAN_OUT**least
    assert levels == least


def test_a_thousand_functions_start_two_cold_starts_after_the_driver_and_sooner_than_by_it_alone() -> None:
    lambda_arm = Platform.parse("lambda-arm")
    tree, alone = Starting(lambda_arm, ranges, 0.05, 2.3), Starting(lambda_arm, flat, 0.05, 2.3)
    tree_s, alone_s = tree.run(1000), alone.run(1000)
    assert tree.works.keys() == alone.works.keys() == set(range(1000))
    assert set(tree.levels.values()) == {1, 2}
    assert floor(lambda_arm, 1000) < tree_s < alone_s


def test_the_ramp_holds_back_what_comes_after_the_first_thousand() -> None:
    quick = Platform("quick", cold_start_s=(1.0, 1.0), ramp=((1000, 0.0), (2000, 10.0)))
    assert floor(quick, 3000) == pytest.approx(1.0 + 20.0)
    assert Starting(quick, ranges, 0.0, 0.0).run(3000) == pytest.approx(1.0 + 20.0, abs=1.0)


class Full(Invoker):
    """Invokes nothing, and has no room for some functions."""

    def __init__(self, full: Collection[int]) -> None:
        self.full, self.sent = full, set[int]()

    def send(self, event: Mapping[str, Any]) -> None:
        first = event["first"]
        if first in self.full:
            raise NoRoom("no room")
        self.sent.add(first)


def test_a_launch_goes_on_with_the_functions_that_lambda_has_room_for(request: pytest.FixtureRequest) -> None:
    store = open_store(f"memory://{request.node.name}")
    work = Work("a", store.url, 5, 0, 5, 0, None, "1.0")
    some = Full({1, 4})
    assert some.start(Launch(store, "a"), work) == 3
    assert some.sent == {0, 2, 3}
    with pytest.raises(NoRoom):
        Full(range(5)).start(Launch(store, "b"), work)
    assert Full(range(5)).start(Launch(store, "b"), work) == 0, "somebody else has claimed these lives"
