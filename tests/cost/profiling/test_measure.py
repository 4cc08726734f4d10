"""Measuring a profile of the digits example in a second or two, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import lambdaml
from lambdaml.cost.profiling.bench import Bench
from lambdaml.cost.profiling.codec_bench import time_codecs
from lambdaml.cost.profiling.codecs import CodecTrial
from lambdaml.cost.profiling.measure import LAGS, LEAST_STEPS
from lambdaml.cost.profiling.profile import Profile
from lambdaml.errors import JobFailed, SettingsError
from lambdaml.job import Job
from lambdaml.options import RunOptions
from lambdaml.simulation import simulate
from lambdaml.storage import open_store
from lambdaml.training.asked import resolve_job, settings_for
from tests.cost.profiling.test_noise import Quadratic

DIGITS = f"{Path(__file__).resolve().parents[3] / 'examples' / 'digits.py'}:Digits"
PARAMETERS = 64 * 16 + 16 + 16 * 10 + 10


@dataclass(frozen=True)
class Measured:
    profile: Profile
    progress: list[tuple[float, str]]
    left_behind: list[str]


@pytest.fixture(scope="module")
def measured() -> Iterator[Measured]:
    """With everything there is to measure."""
    told: list[tuple[float, str]] = []
    keep = open_store("memory://profiled/here")
    made = lambdaml.profile(
        DIGITS,
        args={"hidden": 16},
        store="memory://profiled/here",
        target="accuracy>=0.8",
        workers=2,
        seconds=1.0,
        progress=lambda share, phase: told.append((share, phase)),
    )
    yield Measured(made, told, [info.key for info in keep.list()])
    keep.close()


def test_sizes_are_those_of_the_job(measured: Measured) -> None:
    job, codecs = measured.profile.job, measured.profile.codecs
    assert (job.samples, job.batch_size, job.steps_per_epoch, job.parameters) == (1437, 32, 45, PARAMETERS)
    assert (job.args, len(job.fingerprint)) == ({"hidden": 16}, 64)
    assert 4 * PARAMETERS < job.model_bytes < 4 * PARAMETERS + 1000
    assert codecs["fp32"].update_bytes == 4 * PARAMETERS
    assert codecs["bf16"].update_bytes == 2 * PARAMETERS
    assert all(min(c.encode_s, c.read_s) > 0 and c.apply_s >= 0 for c in codecs.values())


def test_times_are_a_line_with_at_least_four_batch_sizes_around_the_jobs_own(measured: Measured) -> None:
    found = measured.profile.step_time
    sizes = [point.batch_size for point in found.points]
    assert len(sizes) >= 4 and min(sizes) < 32 < max(sizes) and sizes == sorted(sizes)
    assert all(0 < point.median_s <= point.p95_s <= point.p99_s for point in found.points)
    assert found.overhead_s >= 0 and found.slope_s_per_sample >= 0 and found.step_s(32) > 0
    assert found.sigma >= 0 and 1 <= found.p95_over_p50 <= found.p99_over_p50
    assert measured.profile.memory.peak_mb(32) > 50


def test_a_simulation_takes_it_as_it_is(measured: Measured) -> None:
    profile = measured.profile
    assert profile.store is not None
    channel = profile.store.channel()
    result = simulate(workers=2, updates=20, costs=profile.costs(64), channel=channel, platform="local")
    assert result.costs.update_bytes == 4 * PARAMETERS
    assert result.run.bytes["sent"] > 20 * 4 * PARAMETERS


def test_noise_and_coherence_belong_to_a_training_up_to_the_target(measured: Measured) -> None:
    noise, coherence = measured.profile.noise, measured.profile.coherence
    assert noise is not None and coherence is not None
    assert noise.samples is not None and 1 < noise.samples < 10_000
    assert all(point.trace_sigma > 0 for point in noise.points)
    assert coherence.steps == max(LEAST_STEPS, *(run.steps or 0 for run in measured.profile.pilot[:1]))
    assert set(coherence.cosine) == set(coherence.mu) <= set(LAGS)
    assert all(-1 <= value <= 1 for value in coherence.cosine.values())
    assert coherence.cosine[1] > coherence.cosine[max(coherence.cosine)]
    assert list(coherence.mu.values()) == sorted(coherence.mu.values(), reverse=True)
    assert measured.profile.update_norm > 0


def test_pilots_are_kept_with_their_target(measured: Measured) -> None:
    assert measured.profile.target == "accuracy>=0.8"
    assert {(run.group, run.delay) for run in measured.profile.pilot} <= {(1, 0), (2, 0), (1, 1)}
    assert measured.profile.pilot[0].steps is not None


def test_pilots_of_codecs_have_the_seeds_and_the_workers_of_plain_ones(measured: Measured) -> None:
    plain = {(run.group, run.seed) for run in measured.profile.pilot if run.codec == "fp32" and not run.delay}
    coded = [run for run in measured.profile.pilot if run.codec != "fp32"]
    assert coded and {(run.group, run.seed) for run in coded} <= plain and {run.delay for run in coded} == {0}
    assert {run.codec for run in coded} <= set(measured.profile.codecs)
    assert all(run.update_bytes < 4 * PARAMETERS for run in coded)


def test_it_says_what_it_took_and_leaves_the_store_as_it_was(measured: Measured) -> None:
    spent, store = measured.profile.spent, measured.profile.store
    assert store is not None and measured.left_behind == []
    assert set(spent.phases_s) == {"startup", "steps", "codecs", "store", "pilots", "codec pilots", "training"}
    assert spent.seconds >= sum(spent.phases_s.values())
    assert spent.gradients > 100 and sum(spent.requests.values()) > 40 and spent.sent_bytes > 2**20
    assert {"create", "get", "get_miss", "head", "list"} <= set(store.request_times)
    assert store.request_times["get"].count <= spent.requests["get"]


def test_progress_only_rises_and_ends_at_one(measured: Measured) -> None:
    shares = [share for share, _ in measured.progress]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == pytest.approx(1)
    assert list(dict.fromkeys(phase for _, phase in measured.progress)) == list(measured.profile.spent.phases_s)


class Broken(Quadratic):
    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        raise RuntimeError("no loss today")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"target": "accuracy"}, "a target looks like"),
        ({"target": "f1>=0.5"}, "the job reports accuracy, loss"),
        ({"seconds": 0.0}, "seconds: must be more than 0"),
        ({"seconds": math.inf}, "seconds: must be more than 0"),
        ({"device": "abacus"}, "device 'abacus'"),
    ],
)
def test_a_mistake_is_told_before_time_is_spent(options: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        lambdaml.profile(DIGITS, **options)


def test_what_the_job_raises_is_said_in_one_line() -> None:
    with pytest.raises(JobFailed, match="no loss today"):
        lambdaml.profile(Broken(), seconds=0.1)


@pytest.fixture
def bench() -> Bench:
    """With a clock that only a job of ours moves: by 10 s a gradient, and 1 s a sample."""
    now = 0.0

    class Slow(Quadratic):
        def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
            nonlocal now
            now += 10 + len(batch[0])
            return super().loss(model, batch)

    job: Job = Slow()
    settings = settings_for(job, resolve_job(job, {})[0], RunOptions(workers=1, steps=10))
    return Bench(job, settings, "cpu", lambda: now)


def test_the_line_is_that_of_the_clock(bench: Bench) -> None:
    step_time, _ = bench.steps(0.0, lambda share: None)
    assert (step_time.overhead_s, step_time.slope_s_per_sample) == (pytest.approx(10), pytest.approx(1))
    assert (step_time.sigma, step_time.worst_fit_error) == (0, pytest.approx(0, abs=1e-9))
    assert [point.batch_size for point in step_time.points] == [5, 10, 20, 40, 80]


def test_timing_trains_nothing(bench: Bench) -> None:
    before = bench.replica.state().digest()
    bench.steps(0.0, lambda share: None)
    trials = [CodecTrial(codec, "gradient", needed=True) for codec in ("fp32", "topk:0.1")]
    found, _ = time_codecs(bench, trials, 0.0, lambda share: None)
    assert list(found) == ["fp32", "topk:0.1"]
    bench.snapshot()
    assert bench.replica.state().digest() == before
