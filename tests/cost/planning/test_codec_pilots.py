"""Which pilots of codecs are made, and in which order. The pilots themselves are those of test_convergence.py."""

from __future__ import annotations

from typing import Any

import pytest

from lambdaml.cost.planning import codec_pilots
from lambdaml.cost.planning.codec_pilots import by_promise, pilot_codecs
from lambdaml.cost.planning.pilot import PilotRun
from tests.lambdaml.lab import Tiny

BYTES = {"fp32": 400, "bf16": 200, "topk:0.01": 40, "topk:0.001": 4, "topk:1.0": 800}
PLAIN = [
    PilotRun(group, delay, 32, seed, (), steps, 0.1)
    for seed in (101, 102)
    for group, delay, steps in ((1, 0, 100), (4, 0, 60), (16, 0, 50), (1, 3, 200))
]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """The pilots that are asked for, by codec, number of workers and seed. `topk:0.001` misses the target."""
    asked: list[tuple[str, int, int]] = []

    def pilot(job: object, target: str, **given: Any) -> list[PilotRun]:
        ((group, delay),), (seed,), codec = given["plan"], given["seeds"], given["codec"]
        beside = given["beside"]
        assert (beside.group, beside.seed, beside.codec, delay) == (group, seed, "fp32", 0)
        asked.append((codec, group, seed))
        return [PilotRun(group, 0, 32, seed, (), None if codec == "topk:0.001" else 70, 0.1, codec=codec)]

    monkeypatch.setattr(codec_pilots, "pilot", pilot)
    return asked


def test_the_smallest_updates_come_first_and_exact_codecs_need_no_pilot() -> None:
    assert by_promise(BYTES) == ["topk:0.001", "topk:0.01", "bf16"]
    assert by_promise({"bf16": 1, "topk:0.01": 40}) == ["topk:0.01", "bf16"], "one that may do without comes last"


def test_each_codec_is_tried_once_before_any_is_tried_again(made: list[tuple[str, int, int]]) -> None:
    runs = pilot_codecs(Tiny(), "x>=1", PLAIN, BYTES, seconds=60.0)
    assert made[:3] == [(codec, 4, 101) for codec in ("topk:0.001", "topk:0.01", "bf16")]
    assert [(group, seed) for codec, group, seed in made if codec == "bf16"] == [
        (group, seed) for seed in (101, 102) for group in (4, 16, 1)
    ]
    assert [codec for codec, *_ in made].count("topk:0.001") == 1, "it has missed the target"
    assert [(run.codec, run.group, run.seed) for run in runs] == made


def test_no_pilot_begins_when_the_time_is_over(made: list[tuple[str, int, int]]) -> None:
    assert pilot_codecs(Tiny(), "x>=1", PLAIN, BYTES, seconds=0.0) == made == []


def test_without_plain_pilots_that_reached_the_target_there_is_nothing_to_compare_with(
    made: list[tuple[str, int, int]],
) -> None:
    missed = [PilotRun(4, 0, 32, 101, (), None, 0.1)]
    assert pilot_codecs(Tiny(), "x>=1", missed, BYTES, seconds=60.0) == made == []
