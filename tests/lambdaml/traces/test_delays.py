"""Delay models: their laws, and that they are the same everywhere."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambdaml.errors import SettingsError
from lambdaml.traces.delays import DELAYS, Categorical, ClippedGaussian, Delays, Geometric, Recorded, synthetic_trace
from tests.lambdaml.lab import Tiny, settings_of

specs = st.sampled_from(["categorical:0", "categorical:7", "geometric:0", "geometric:3.5", "gaussian:1", "gaussian:9"])


def drawn(delays: Delays, seed: int = 0) -> np.ndarray:
    return np.concatenate([delays.matrix(iteration, 16, 16, seed).ravel() for iteration in range(200)])


@given(specs, st.integers(0, 99), st.integers(1, 5), st.integers(1, 5), st.integers(0, 9))
def test_a_matrix_is_a_pure_function_of_its_arguments(
    spec: str, iteration: int, senders: int, receivers: int, seed: int
) -> None:
    delays = DELAYS.make(spec)
    matrix = delays.matrix(iteration, senders, receivers, seed)
    delays.matrix(iteration + 1, senders, receivers, seed)
    assert (matrix.shape, matrix.dtype, matrix.min() >= 0) == ((senders, receivers), np.int64, True)
    assert np.array_equal(matrix, DELAYS.make(spec).matrix(iteration, senders, receivers, seed))


def test_the_draws_are_the_same_in_another_process_and_in_every_release() -> None:
    code = (
        "from lambdaml.traces.delays import *; "
        "print([DELAYS.make(s).matrix(3, 2, 3, 1).tolist() for s in ('categorical:8', 'geometric:4', 'gaussian:13')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[[[2, 8, 1], [8, 4, 6]], [[0, 5, 0], [0, 0, 1]], [[7, 5, 5], [4, 9, 11]]]"


def test_drawing_does_not_touch_the_global_random_stream() -> None:
    np.random.seed(5)
    expected = np.random.random()
    np.random.seed(5)
    Categorical(4).matrix(0, 2, 2)
    assert np.random.random() == expected


@pytest.mark.parametrize("model", [Categorical(8), Geometric(4.0), ClippedGaussian(13)])
def test_pairs_iterations_and_seeds_draw_apart(model: Delays) -> None:
    first = model.matrix(0, 16, 16)
    assert not np.array_equal(first, model.matrix(1, 16, 16))
    assert not np.array_equal(first, model.matrix(0, 16, 16, seed=1))
    assert not np.array_equal(first, first.T)


@pytest.mark.parametrize("s", [0, 1, 4, 16])
def test_categorical_is_uniform_with_mean_half_of_s(s: int) -> None:
    values = drawn(Categorical(s))
    counts = np.bincount(values, minlength=s + 1)
    assert len(counts) == s + 1
    assert np.allclose(counts / len(values), 1 / (s + 1), atol=0.01)
    assert abs(values.mean() - s / 2) < 0.01 * (s + 1)


@pytest.mark.parametrize("mean", [0.0, 0.5, 4.0])
def test_geometric_has_its_mean_and_a_tail_without_memory(mean: float) -> None:
    values = drawn(Geometric(mean))
    assert abs(values.mean() - mean) < 0.03 * mean + 1e-9
    assert abs((values == 0).mean() - 1 / (mean + 1)) < 0.01
    if mean:
        assert abs((values[values > 0] - 1).mean() - mean) < 0.05 * mean


@pytest.mark.parametrize("s", [1, 2, 13, 49])
def test_gaussian_is_clipped_to_its_range_and_centred_in_it(s: int) -> None:
    values = drawn(ClippedGaussian(s))
    assert 0 <= values.min() <= values.max() <= s - 1
    assert abs(values.mean() - (s - 1) / 2) < 0.1 + 0.01 * s
    if s > 10:
        assert abs(values.std() - (s - 1) / 6) < 0.1
        assert (values.min(), values.max()) == (0, s - 1)


def test_recorded_delays_are_given_back() -> None:
    model = Recorded([np.array([[0, 1], [2, 3]]), np.zeros((2, 2), int)])
    assert model.matrix(0, 2, 2, seed=9).tolist() == [[0, 1], [2, 3]]
    for iteration, senders, message in [(2, 2, "2 iterations, not for number 2"), (0, 3, r"\(3, 2\), not \(2, 2\)")]:
        with pytest.raises(SettingsError, match=message):
            model.matrix(iteration, senders, 2)
    with pytest.raises(SettingsError, match="0 or more"):
        Recorded([np.array([[-1]])]).matrix(0, 1, 1)


@pytest.mark.parametrize(
    "spec", ["categorical:-1", "geometric:-1", "geometric:nan", "gaussian:0", "poisson:3", "geometric"]
)
def test_a_model_that_makes_no_sense_is_refused(spec: str) -> None:
    with pytest.raises(SettingsError, match=spec.partition(":")[0]):
        DELAYS.make(spec)


@given(specs, st.integers(1, 5), st.integers(1, 30), st.integers(0, 3))
def test_a_synthetic_trace_is_as_stale_as_its_model_says(spec: str, workers: int, steps: int, seed: int) -> None:
    trace = synthetic_trace(spec, workers, steps, seed)
    assert (trace.source, trace.workers, len(trace.rows), trace.settings) == (
        "synthetic",
        workers,
        workers * steps,
        None,
    )
    for step in range(steps):
        delays = DELAYS.make(spec).matrix(step, workers, 1, seed)[:, 0].tolist()
        rows = trace.rows[step * workers : (step + 1) * workers]
        assert [(row["worker"], row["seq"], row["commit"], row["version"]) for row in rows] == [
            (worker, step, step, step + 1) for worker in range(workers)
        ]
        assert [row["base"] for row in rows] == [max(0, step - delay) for delay in delays]
        assert all(row["staleness"] == row["version"] - 1 - row["base"] for row in rows)


def test_a_synthetic_trace_can_stand_for_a_run() -> None:
    settings = settings_of(Tiny(), workers=2, steps=5)
    assert synthetic_trace("categorical:3", 2, 5, settings=settings).settings == settings
    with pytest.raises(SettingsError, match="2 workers and 5 steps, not 3 and 5"):
        synthetic_trace("categorical:3", 3, 5, settings=settings)
    with pytest.raises(SettingsError, match="not 0 and 5"):
        synthetic_trace("categorical:3", 0, 5)
