"""Rules that change gradients or remember them, computed by hand; and that they go on from their state."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lambdaml.log.commits import shares, summed
from lambdaml.staleness import RULES
from tests.lambdaml.staleness.test_staleness import STATEFUL, entry_of


def vector(*numbers: float) -> Any:
    return np.array(numbers, np.float32)


def total(found: tuple[list[tuple[Any, float]], float]) -> list[float]:
    terms, divisor = found
    out: list[float] = (sum(array * weight for array, weight in terms) / divisor).tolist()
    return out


def transform_of(spec: str, workers: int = 3) -> Any:
    transform = RULES.make(spec).transform(workers, 8)
    assert transform is not None
    return transform


def test_delay_compensation_by_hand() -> None:
    dc = transform_of("dc:0.5")
    for version in range(3):
        dc.begin(version, lambda version=version: vector(1.0 * version, -2.0 * version))
    entry = entry_of(2, 0, weight=0.25)
    (term,), _ = dc.terms([entry], [vector(2, 4)], 1.0, lambda: vector(2, -4))
    assert term[0].tolist() == [2 + 0.5 * 4 * 2, 4 + 0.5 * 16 * -4]
    assert term[1] == 0.25


def test_adaptive_delay_compensation_by_hand() -> None:
    dc = transform_of("dc-a:strength=2,decay=0.75")
    dc.begin(0, lambda: vector(0))
    mean = 0.0
    for gradient in (2.0, 4.0):
        mean = 0.75 * mean + 0.25 * gradient**2
        ((found, _),), _ = dc.terms([entry_of(1, 0)], [vector(gradient)], 1.0, lambda: vector(0.5))
        assert found.tolist() == pytest.approx([gradient + 2 / math.sqrt(mean + 1e-7) * gradient**2 * 0.5])


def test_versions_that_nobody_can_read_any_more_are_forgotten_and_the_window_bounds_the_rest() -> None:
    dc = transform_of("dc:window=4", workers=2)
    for version in range(10):
        dc.begin(version, lambda version=version: vector(version))
    assert sorted(dc.state()) == ["read", "version-6", "version-7", "version-8", "version-9"]
    ((found, _),), _ = dc.terms([entry_of(9, 0)], [vector(1)], 1.0, lambda: vector(9))
    assert found.tolist() == pytest.approx([1 + 0.04 * (9 - 6)])  # from the oldest kept
    dc.terms([entry_of(1, 8, worker=0), entry_of(2, 7, worker=1)], [vector(1), vector(1)], 1.0, lambda: vector(9))
    dc.begin(10, lambda: vector(10))
    assert sorted(dc.state()) == ["read", "version-10", "version-7", "version-8", "version-9"]


def test_ringleader_steps_once_for_each_worker_a_round_along_the_mean_of_all() -> None:
    table_ = transform_of("ringleader")

    def take(worker: int, gradient: float) -> list[float] | None:
        terms = table_.terms([entry_of(0, worker=worker)], [vector(gradient)], 1.0, lambda: vector(0))
        return pytest.approx(total(terms)) if terms[0] else None

    assert take(0, 1.0) is None
    assert take(0, 3.0) is None  # again: its mean is 2
    assert take(1, 5.0) is None
    assert take(2, 8.0) == [(2 + 5 + 8) / 3]  # the table is complete
    assert take(2, 90.0) is None  # put by for the next round
    assert take(0, 5.0) == [(3 + 5 + 8) / 3]  # (1 + 3 + 5) / 3
    assert take(1, 7.0) == [(3 + 6 + 8) / 3]  # all have stepped: the round is over
    assert take(0, 9.0) is None
    assert take(1, 30.0) == [(9 + 30 + 90) / 3]


def test_ringleader_weighs_workers_by_their_samples() -> None:
    table_ = transform_of("ringleader", workers=2)
    entries = [replace(entry_of(0, worker=w), samples=n) for w, n in enumerate((3, 9))]
    assert total(table_.terms(entries, [vector(4), vector(8)], 1.0, lambda: vector(0))) == [7.0]


@pytest.mark.parametrize("spec", ["nesterov:beta=0.5,n=2,c=0.25", "dc:0.5", "ringleader"])
def test_what_is_divided_once_is_what_would_be_with_shares_of_the_samples(spec: str) -> None:
    """A step over updates of different sizes, given as factors and a divisor, and as shares that add up to one."""
    factors, shares_ = transform_of(spec, workers=2), transform_of(spec, workers=2)
    stream = np.random.RandomState(1)
    for version in range(6):
        gradients = [stream.randn(3) for _ in range(2)]
        step = tuple(replace(entry_of(0, version, worker=w), samples=n, weight=1.0) for w, n in enumerate((3, 8)))
        for transform in (factors, shares_):
            transform.begin(version, lambda version=version: vector(version, 1.0, -1.0))
        weights, divisor = summed(step, 8)
        one = [replace(entry, weight=weight) for entry, weight in zip(step, weights, strict=True)]
        two = [replace(entry, weight=weight) for entry, weight in zip(step, shares(step), strict=True)]
        found = total(factors.terms(one, gradients, divisor, lambda: vector(0.5, 0.5, 0.5)))
        assert found == pytest.approx(total(shares_.terms(two, gradients, 1.0, lambda: vector(0.5, 0.5, 0.5))))


def test_delayed_nesterov_by_hand() -> None:
    nesterov = transform_of("nesterov:beta=0.5,n=2,c=0.25")
    momentum = pending = 0.0
    for number, gradient in enumerate([4.0, 8.0, 2.0, 6.0, 10.0]):
        pending += gradient
        factor = 0.25
        if number % 2:
            momentum, pending, factor = 0.5 * momentum + pending / 2, 0.0, 1 - 0.5 + 0.25
        terms = nesterov.terms([entry_of(0, weight=1.0)], [vector(gradient)], 1.0, lambda: vector(0))
        assert total(terms) == pytest.approx([gradient / 2 + factor * 0.5 * momentum])


@pytest.mark.parametrize("spec", STATEFUL)
def test_a_transform_goes_on_from_its_state_as_if_nothing_had_happened(spec: str) -> None:
    stream = np.random.RandomState(0)
    whole, resumed = transform_of(spec), transform_of(spec)
    for version in range(20):
        parameters, gradient = stream.randn(4).astype(np.float32), stream.randn(4).astype(np.float32)
        tau, worker = min(version, int(stream.randint(4))), int(stream.randint(3))
        entry = replace(entry_of(tau, version - tau, worker=worker), weight=0.5)
        results = []
        for one in (whole, resumed):
            one.begin(version, parameters.copy)
            terms, divisor = one.terms([entry], [gradient], 1.0, parameters.copy)
            results.append((divisor, [(array.tolist(), weight) for array, weight in terms]))
        assert results[0] == results[1]
        state = {name: array.copy() for name, array in whole.state().items()}
        assert {name: array.tolist() for name, array in resumed.state().items()} == {
            name: array.tolist() for name, array in state.items()
        }
        resumed = transform_of(spec)
        resumed.load(state)
