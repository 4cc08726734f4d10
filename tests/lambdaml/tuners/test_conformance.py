"""What every tuner must do. A new one takes one file and one line in `TUNERS`: see `tests/parts/ladder.py`.

pytest -p mine --tuner mine:3 tests/lambdaml/tuners/test_conformance.py    # one of your own, in mine.py
"""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Iterator
from typing import Any

import pytest

import lambdaml
from lambdaml.log.tuned import DERIVED
from lambdaml.tuners import TUNERS, Knob, Observation
from tests.lambdaml.lab import TinyAdam, broken_off, model_bytes, train

GAIA: dict[str, Any] = {
    "workers": 3,
    "steps": 34,
    "algorithm": "local:1,ahead=yes,outer=sum",
    "codec": "significant:0.02,decay=none",
    "partition": "skew:1",
    "keep": "all",
}


LOCAL_STEPS: dict[str, Any] = {
    "workers": 3,
    "steps": 34,
    "algorithm": "local:6,inner=keep",
    "partition": "skew:1",
    "keep": "all",
}

WARMUP = {**GAIA, "algorithm": "local:1,ahead=yes", "codec": "topk:0.1,warmup=0.8/0.6/0.5/0.4/0.3/0.2"}

RUNS = pytest.mark.parametrize("options", [GAIA, LOCAL_STEPS, WARMUP], ids=["threshold", "local steps", "warm-up"])


@pytest.fixture(scope="module", params=["skewscout:every=5", "ladder"])
def tuner(request: pytest.FixtureRequest) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TUNERS.factories, "ladder", "tests.parts.ladder:Ladder")
        yield request.param


def drawn(count: int = 40) -> list[Observation]:
    stream = random.Random(5)
    return [Observation(stream.uniform(-0.2, 1.0), stream.uniform(0, 1)) for _ in range(count)]


def told(run: lambdaml.Run) -> list[Any]:
    """What the log says of the tuning."""
    return [(commit.tuned, [c for c in commit.controls if c.number == DERIVED]) for commit in run.log()]


def test_what_it_knows_is_plain_and_what_it_does_follows_from_that_alone(tuner: str) -> None:
    knob, state, value = Knob("threshold", 0.25), dict[str, Any](), 0.25
    for seen in drawn():
        kept = copy.deepcopy(state)
        turned, value = TUNERS.make(tuner).turn(knob, state, seen)
        assert state == kept, "it changes nothing that it was given"
        assert TUNERS.make(tuner).turn(knob, json.loads(json.dumps(state)), seen) == (turned, value)
        assert 0 < value < math.inf
        assert len(json.dumps(turned)) < 4000
        state = turned


@RUNS
def test_a_run_has_the_same_bits_and_decisions_with_any_number_of_functions(
    tuner: str, options: dict[str, Any]
) -> None:
    alone = train(TinyAdam, functions=1, tune=tuner, **options)
    shared = train(TinyAdam, functions=3, tune=tuner, snapshot_every=6, **options)
    assert model_bytes(alone) == model_bytes(shared)
    assert told(alone) == told(shared)
    assert any(turned for _, turned in told(alone)), "the knob turns"
    report = shared.verify(deep=1)
    assert report.faults == [] and report.recomputed == options["workers"] * options["steps"]
    assert shared.replay(20).digest() == alone.replay(20).digest()


@RUNS
@pytest.mark.parametrize("at", [3, 4, 9, 10])
def test_a_run_that_was_broken_off_around_a_trip_goes_on_with_the_same_bits_and_decisions(
    tuner: str, at: int, options: dict[str, Any]
) -> None:
    run = broken_off(TinyAdam, at=at, functions=2, tune=tuner, snapshot_every=5, **options)
    assert lambdaml.resume(run.store, functions=2).stop == "steps"
    whole = train(TinyAdam, functions=1, tune=tuner, snapshot_every=5, **options)
    assert model_bytes(run) == model_bytes(whole)
    assert told(run) == told(whole)


def test_every_tuner_of_ours_is_tried_here() -> None:
    assert {*TUNERS.factories} - {"ladder"} == {"skewscout"}
