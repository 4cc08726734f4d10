"""Steps to a target from pilots: what was tried comes back, between is between, beyond is not promised."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest

from lambdaml.cost.planning.convergence import Convergence, StepsToTarget
from lambdaml.cost.planning.pilot import STEEP, PilotRun, default_plan, pilot
from lambdaml.cost.profiling.facts import CoherenceFacts
from lambdaml.errors import SettingsError
from tests.lambdaml import lab

JOB = f"{Path(lab.__file__)}:Tiny"


def run(group: int, delay: int, steps: int | None, seed: int = 1, batch: int = 32, codec: str = "fp32") -> PilotRun:
    return PilotRun(group, delay, batch, seed, (), steps, 0.1, codec=codec)


PILOTS = [run(1, 0, 100), run(4, 0, 60), run(16, 0, 50), run(1, 3, 130), run(1, 7, 200), run(1, 15, None)]


@pytest.mark.parametrize("group, staleness, steps", [(1, 0, 100), (4, 0, 60), (16, 0, 50), (1, 3, 130), (1, 7, 200)])
def test_what_was_tried_comes_back(group: int, staleness: float, steps: float) -> None:
    found = Convergence(PILOTS).steps(group, 32 * group, staleness)
    assert found is not None and found.median == pytest.approx(steps)


def test_between_pilots_lies_between_them() -> None:
    convergence = Convergence(PILOTS)
    two, stale = convergence.steps(2, 64), convergence.steps(1, 32, 5)
    assert two is not None and 60 < two.median < 100
    assert stale is not None and 130 < stale.median < 200


def test_beyond_what_pilots_stood_nothing_is_promised() -> None:
    convergence = Convergence(PILOTS)
    assert convergence.tolerance == 15
    assert convergence.steps(1, 32, 15) is None and convergence.steps(1, 32, 12) is None
    assert Convergence(PILOTS[:3]).steps(1, 32, 1.0) is None


def test_larger_groups_take_the_factor_of_the_group_that_comes_nearest() -> None:
    convergence = Convergence([*PILOTS, run(8, 0, 55), run(8, 3, 55)])
    stale = convergence.steps(6, 192, 3)
    fresh = convergence.steps(6, 192)
    assert stale is not None and fresh is not None and stale.median == pytest.approx(fresh.median)


def test_smaller_batches_follow_the_noise_scale() -> None:
    found = Convergence(PILOTS, noise_scale_samples=32).steps(1, 16)
    assert found is not None and found.median == pytest.approx(100 * (1 + 32 / 16) / (1 + 32 / 32))


def test_without_stale_pilots_coherence_tells() -> None:
    facts = CoherenceFacts(100, 1000, {1: 1.0, 2: 0.8, 4: 0.625, 8: 0.2}, {}, 5.2, False)
    found = Convergence(PILOTS[:3], None, facts)
    assert found.by_coherence
    assert found.steps(1, 32, 2.0) == StepsToTarget(pytest.approx(125), found.sigma)
    assert found.steps(1, 32, 4.0) == StepsToTarget(pytest.approx(160), found.sigma)
    assert found.steps(1, 32, 8.0) is None
    tried = Convergence(PILOTS, None, facts)
    assert not tried.by_coherence
    assert tried.steps(1, 32, 3.0) == Convergence(PILOTS).steps(1, 32, 3.0)


def test_the_spread_is_pooled_over_repeated_pilots() -> None:
    pilots = [run(1, 0, 100, 1), run(1, 0, 121, 2), run(4, 0, 50, 1), run(4, 0, 50, 2)]
    squares = 2 * (math.log(1.21) / 2) ** 2
    assert Convergence(pilots).sigma == pytest.approx(math.sqrt(squares / 2))


def test_a_run_stops_at_the_next_snapshot() -> None:
    assert StepsToTarget(37.0, 0.0).quantile(0.5, 12) == 48
    assert StepsToTarget(48.0, 0.0).quantile(0.5, 12) == 48
    assert StepsToTarget(48.0, 0.1).quantile(0.9, 12) == 60


def test_default_plans_begin_with_one_worker_and_reach_the_most() -> None:
    assert default_plan(1) == [(1, 0)]
    plan = default_plan(16)
    assert plan[0] == (1, 0) and {(16, 0), (1, 1), (1, 15)} <= set(plan) and len(plan) == len(set(plan))


# ---- Codecs.

CODED = [
    *(run(4, 0, steps, seed) for seed, steps in ((1, 60), (2, 80))),
    *(run(4, 0, steps, seed, codec="topk:0.01") for seed, steps in ((1, 90), (2, 100))),
    *(run(group, 0, steps) for group, steps in ((1, 100), (16, 50))),
    *(run(16, 0, steps, codec=codec) for steps, codec in ((55, "topk:0.01"), (45, "bf16"))),
    *(run(4, 0, steps, codec="topk:0.001") for steps in (None,)),
]


def test_a_codec_has_the_factor_of_its_pilots_to_plain_ones_of_the_same_seed() -> None:
    convergence = Convergence(CODED)
    assert convergence.factors("topk:0.01") == {4: pytest.approx((90 / 60 + 100 / 80) / 2), 16: pytest.approx(1.1)}
    plain, coded = convergence.steps(4, 128), convergence.steps(4, 128, codec="topk:0.01")
    assert plain is not None and coded is not None and coded.median == pytest.approx(1.375 * plain.median)
    eight, alone = convergence.factor("topk:0.01", 8), convergence.factor("topk:0.01", 1)
    assert eight is not None and 1.1 < eight < 1.375 and alone == pytest.approx(1.375)


def test_no_codec_is_promised_to_need_fewer_steps_and_one_without_pilots_needs_as_many() -> None:
    convergence = Convergence(CODED)
    assert convergence.factor("bf16", 16) == convergence.factor("fp16", 16) == convergence.factor("fp32", 16) == 1.0


def test_nothing_is_promised_with_a_codec_whose_pilots_missed_the_target() -> None:
    assert Convergence(CODED).steps(4, 128, codec="topk:0.001") is None
    assert Convergence([*CODED, run(16, 0, 60, codec="topk:0.001")]).steps(4, 128, codec="topk:0.001") is None
    assert Convergence([*CODED, run(16, 0, 60, codec="topk:0.001")]).factor("topk:0.001", 12) == pytest.approx(1.2)


def test_pilots_of_codecs_change_nothing_for_plain_updates() -> None:
    with_codecs, plain = Convergence(CODED), Convergence([run for run in CODED if run.codec == "fp32"])
    assert with_codecs.steps(4, 128) == plain.steps(4, 128) and with_codecs.sigma == plain.sigma


def test_pilots_of_codecs_are_the_runs_they_stand_for() -> None:
    """Each worker keeps what its updates leave out."""
    import lambdaml

    found = pilot(JOB, "accuracy>=0.9", codec="topk:0.1", plan=[(2, 0)], seeds=(5,))[0]
    assert (found.codec, found.update_bytes) == ("topk:0.1", 2 * (4 + 4)) and found.steps is not None
    result = lambdaml.train(
        JOB,
        "memory://coded-pilot-as-run",
        workers=2,
        steps=found.steps,
        seed=5,
        snapshot_every=found.steps,
        codec="topk:0.1",
        engine="inline",
    )
    assert result.metrics["accuracy"] == found.curve[-1][1]


@pytest.mark.parametrize(("curve", "gives_up"), [(((1, 2.0), (4, 2.0)), 4), (((1, -1.0), (4, 2.0)), 12), ((), 12)])
def test_a_pilot_gives_up_when_it_learns_three_times_as_slowly_as_the_one_beside_it(
    curve: tuple[tuple[int, float], ...], gives_up: int
) -> None:
    beside = PilotRun(2, 0, 8, 5, curve, 4, 0.1)
    (found,) = pilot(JOB, "accuracy>=2", plan=[(2, 0)], seeds=(5,), beside=beside)
    assert (found.steps, found.curve[-1][0]) == (None, gives_up)


def test_a_pilot_beside_another_that_the_time_cuts_short_is_left_out() -> None:
    beside = PilotRun(2, 0, 8, 5, (), 4, 0.1)
    assert pilot(JOB, "accuracy>=0.9", plan=[(2, 0)], seeds=(5,), beside=beside, seconds=0.0) == []


# ---- Pilots.


def test_pilots_are_the_runs_they_stand_for() -> None:
    """A pilot of two updates a step takes the very steps of bsp with two workers."""
    import lambdaml

    found = pilot(JOB, "accuracy>=0.9", plan=[(2, 0)], seeds=(5,))[0]
    assert found.steps is not None
    result = lambdaml.train(
        JOB, "memory://pilot-as-run", workers=2, steps=found.steps, seed=5, snapshot_every=found.steps, engine="inline"
    )
    assert result.metrics["accuracy"] == found.curve[-1][1]


@pytest.mark.parametrize("algorithm", ["local:3,outer=nesterov", "local:6,outer=nesterov,fragments=2"])
def test_pilots_with_local_steps_are_the_runs_they_stand_for(algorithm: str) -> None:
    """Each worker of a pilot keeps its inner optimizer, and its own values of fragments."""
    import lambdaml

    found = pilot(JOB, "accuracy>=0.9", args={"lr": 0.005}, algorithm=algorithm, plan=[(2, 0)], seeds=(5,))[0]
    assert found.algorithm == algorithm and found.steps is not None and found.steps > 1
    options = {
        "args": {"lr": 0.005},
        "workers": 2,
        "steps": found.steps,
        "seed": 5,
        "snapshot_every": found.steps,
        "engine": "inline",
    }
    result = lambdaml.train(JOB, f"memory://local-pilot-as-run-{algorithm}", algorithm=algorithm, **options)
    assert result.metrics["accuracy"] == found.curve[-1][1]


def test_pilots_with_local_steps_have_no_delay() -> None:
    assert default_plan(16, "local:20") == [entry for entry in default_plan(16) if entry[1] == 0][: len({1, 4, 16})]


def test_a_metric_that_the_job_does_not_report_is_a_mistake() -> None:
    with pytest.raises(SettingsError, match="the job reports"):
        pilot(JOB, "beauty>=1", plan=[(1, 0)])


def test_where_the_need_for_steps_rises_steeply_delays_between_are_tried() -> None:
    digits = f"{Path(__file__).parents[3] / 'examples' / 'digits.py'}:Digits"
    found = pilot(digits, "accuracy>=0.9", args={"lr": 0.8}, plan=[(1, 0), (1, 15)], seeds=(5, 6))
    steps = {run.delay: run.steps for run in found if run.seed == 5}
    assert len(steps) > 2 and steps[0] is not None and steps[15] is None
    for (low, few), (high, many) in pairwise(sorted(steps.items())):
        assert high == low + 1 or few is None or (many is not None and many <= STEEP * few)
    assert [run.delay for run in found if run.seed == 6] == list(steps)
