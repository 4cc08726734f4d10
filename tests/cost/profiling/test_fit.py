"""The line through step times, the batch sizes it is taken at, and the spread about it."""

import math
import random

import pytest

from lambdaml.cost.profiling.fit import batch_sizes, line, quantile, spread


@pytest.mark.parametrize(("overhead", "slope"), [(0.002, 0.0001), (0.0, 0.01), (0.5, 0.0)])
def test_a_line_is_found_exactly(overhead: float, slope: float) -> None:
    points = [(x, overhead + slope * x) for x in (8, 16, 32, 64, 128)]
    assert line(points) == pytest.approx((overhead, slope), abs=1e-12)


def test_errors_count_in_proportion() -> None:
    """Both points of a pair are off by a tenth, one up, one down: the line goes through the middle of each."""
    points = [(x, y * (0.01 + 0.001 * x)) for x in (10, 1000) for y in (1 / 1.1, 1 / 0.9)]
    overhead, slope = line(points)
    for x in (10, 1000):
        assert overhead + slope * x == pytest.approx(0.01 + 0.001 * x, rel=0.02)


def test_neither_overhead_nor_slope_is_negative() -> None:
    assert line([(1, 3.0), (2, 2.0), (3, 1.0)])[1] == 0.0
    overhead, slope = line([(10, 1.0), (20, 4.0), (30, 9.0)])
    assert overhead == 0.0 and slope > 0


def test_one_batch_size_is_all_overhead() -> None:
    assert line([(32, 0.25)]) == (0.25, 0.0)


@pytest.mark.parametrize(
    ("batch_size", "samples", "sizes"),
    [
        (32, 1437, [8, 16, 32, 64, 128]),
        (1, 1000, [1, 2, 4, 8, 16]),
        (1000, 1437, [250, 500, 1000, 1437, 125]),
        (8, 3, [1, 2, 3]),
        (32, 1, [1]),
    ],
)
def test_batch_sizes_lie_around_the_jobs_own(batch_size: int, samples: int, sizes: list[int]) -> None:
    assert batch_sizes(batch_size, samples) == sorted(sizes)


def test_the_spread_of_a_lognormal_is_its_sigma() -> None:
    draw = random.Random(0)
    groups = [[scale * math.exp(0.2 * draw.gauss(0, 1)) for _ in range(2000)] for scale in (0.001, 1.0)]
    groups[0][0] = 1000.0  # one hiccup
    sigma, p95, p99 = spread(groups)
    assert sigma == pytest.approx(0.2, rel=0.05)
    assert p95 == pytest.approx(math.exp(0.2 * 1.645), rel=0.05)
    assert p99 == pytest.approx(math.exp(0.2 * 2.326), rel=0.1)


def test_quantiles_are_values() -> None:
    assert [quantile([3.0, 1.0, 2.0, 4.0], q) for q in (0.0, 0.25, 0.5, 0.75, 1.0)] == [1.0, 1.0, 2.0, 3.0, 4.0]
