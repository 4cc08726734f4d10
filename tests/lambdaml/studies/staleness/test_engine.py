"""The vectorised study computes what a loop over workers does, and without staleness what synchronous training does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from lambdaml.studies.data import digits
from lambdaml.studies.staleness.algorithms import UPDATE_RULES
from lambdaml.studies.staleness.delivery import Delivery
from lambdaml.studies.staleness.engine import train_in_numpy
from lambdaml.studies.staleness.learning import Batches, GradientLearner
from lambdaml.studies.staleness.mlp import MlpProblem
from lambdaml.studies.staleness.theory import theorem
from lambdaml.traces.delays import Categorical, Delays, Geometric
from tests.lambdaml.studies.staleness.loop import LoopOverWorkers, optimizer_of

WIDTH = 16


def caches_after(
    steps: int,
    depth: int,
    algorithm: str,
    rates: Sequence[float],
    delays: Sequence[Delays],
    seeds: Sequence[int],
    workers: int,
) -> Tensor:
    """Of the engine: [settings, P, size]."""
    seen: list[Tensor] = []
    learner = GradientLearner(MlpProblem(digits(), depth, WIDTH), algorithm, rates, seeds, workers, 32)
    count = len(seeds)
    train_in_numpy(
        learner, delays, seeds, workers, [2.0] * count, [steps] * count, lambda _, caches: seen.append(caches.clone())
    )
    return seen[-1]


@pytest.mark.parametrize("algorithm", UPDATE_RULES)
def test_each_algorithm_makes_the_steps_of_torch_optim(algorithm: str) -> None:
    rows, size, rates = 3, 7, [0.01, 0.02, 0.003]
    draw = torch.Generator().manual_seed(0)
    gradients = torch.randn(20, rows, size, generator=draw)
    mine, sums = UPDATE_RULES[algorithm](), torch.zeros(rows, size)
    theirs = [torch.zeros(size, requires_grad=True) for _ in range(rows)]
    optimizers = [optimizer_of(algorithm, [vector], rate) for vector, rate in zip(theirs, rates)]
    for step in gradients:
        sums += mine(step, torch.tensor(rates)[:, None])
        for vector, optimizer, gradient in zip(theirs, optimizers, step):
            vector.grad = gradient.clone()
            optimizer.step()
    torch.testing.assert_close(sums, torch.stack([vector.detach() for vector in theirs]), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("depth", "algorithm", "delays", "workers"),
    [
        (0, "sgd", Categorical(0), 4),
        (2, "sgd", Categorical(7), 3),
        (1, "adam", Categorical(4), 4),
        (1, "momentum", Geometric(3.0), 3),
        (2, "adagrad", Categorical(3), 2),
        (1, "rmsprop", Categorical(5), 1),
    ],
)
def test_all_workers_at_once_are_the_loop_over_workers(
    depth: int, algorithm: str, delays: Delays, workers: int
) -> None:
    steps, rate, seed = 30, 0.004, 5
    mine = caches_after(steps, depth, algorithm, [rate], [delays], [seed], workers)[0]
    loop = LoopOverWorkers(digits(), (64, *[WIDTH] * depth, 10), algorithm, rate, delays, seed, workers)
    for _ in range(steps):
        loop.step()
    torch.testing.assert_close(mine, torch.stack(loop.caches), rtol=1e-3, atol=2e-5)
    assert not torch.equal(mine[0], MlpProblem(digits(), depth, WIDTH).initial(seed))


@pytest.mark.parametrize("algorithm", UPDATE_RULES)
def test_without_staleness_it_is_synchronous_training_bit_for_bit(algorithm: str) -> None:
    workers, steps, rate, seed, depth = 4, 25, 0.003, 1, 2
    problem = MlpProblem(digits(), depth, WIDTH)
    batches, state = Batches(seed, problem.samples, workers, 32), [UPDATE_RULES[algorithm]() for _ in range(workers)]
    model = problem.initial(seed)
    for step in range(steps):
        total = torch.zeros_like(model)
        for worker, samples in enumerate(batches.at(step)):
            gradient = problem.gradients(model[None], samples[None], step)
            total = total + state[worker](gradient, torch.tensor([[rate]]))[0]
        model = model + total
    caches = caches_after(steps, depth, algorithm, [rate], [Categorical(0)], [seed], workers)[0]
    assert all(torch.equal(cache, model) for cache in caches)


def test_a_setting_is_the_same_alone_and_among_others_that_end_earlier() -> None:
    learner = [0.02, 0.005, 0.04], [3, 4, 3], [Categorical(2), Categorical(9), Categorical(0)]
    problem = MlpProblem(digits(), 1, WIDTH)

    def courses(which: Sequence[int]) -> list[tuple[int | None, list[tuple[int, float]]]]:
        rates, seeds, delays = ([column[place] for place in which] for column in learner)
        made = GradientLearner(problem, "momentum", rates, seeds, 4, 16)
        found = train_in_numpy(made, delays, seeds, 4, [0.85] * len(which), [200] * len(which))
        return [(course.iterations, course.curve) for course in found]

    together = courses([0, 1, 2])
    assert [courses([place])[0] for place in range(3)] == together
    assert len({iterations for iterations, _ in together}) == 3


def test_an_update_reaches_each_cache_when_its_delay_says_and_no_cache_twice() -> None:
    workers, steps, late = 3, 40, 25
    stream = np.random.RandomState(0)
    table = stream.randint(0, late, (300, workers, workers)).astype(np.int64)

    class Known:
        def matrix(self, iteration: int, senders: int, receivers: int, seed: int = 0) -> NDArray[np.int64]:
            return table[iteration]

    delivery = Delivery([Known()], [0], workers, steps * workers, torch.float64)
    caches = torch.zeros(workers, steps * workers, dtype=torch.float64)
    marks = torch.eye(steps * workers, dtype=torch.float64)
    for t in range(steps):
        caches += delivery.exchange(t, marks[t * workers : (t + 1) * workers])
        for receiver in range(workers):
            there = [sent + table[sent, sender, receiver] <= t for sent in range(steps) for sender in range(workers)]
            assert caches[receiver].tolist() == [float(arrived) for arrived in there]


def test_a_run_that_is_not_finite_is_given_up_and_never_meets_its_target() -> None:
    learner = GradientLearner(MlpProblem(digits(), 6, WIDTH), "sgd", [1e30], [0], 2, 8)
    (course,) = train_in_numpy(learner, [Categorical(0)], [0], 2, [0.92], [60])
    assert course.iterations is None and course.ran == 60


def test_the_theorem_is_silent_where_gradients_do_not_cohere_and_holds_where_they_do() -> None:
    sequential, stale = theorem(0, 1, steps=150), theorem(0, 8, steps=150)
    for found in (sequential, stale):
        bounds = dict(found.bound)
        assert 0 < found.coherence <= 1.0 + 1e-6
        assert all(value <= bounds[at] for at, value in found.measured if at in bounds)
        assert [value for _, value in found.measured] == sorted((value for _, value in found.measured), reverse=True)
    assert sequential.coherence == pytest.approx(1.0)
    assert sequential.measured[-1][1] < sequential.measured[0][1] / 2
