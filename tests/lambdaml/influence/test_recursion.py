"""The recursion against NumPy, finite differences and training without clients."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
import torch

from lambdaml.errors import SettingsError
from lambdaml.influence.federated import FederatedRun, Round
from lambdaml.influence.products import ExactProducts, FisherProducts
from lambdaml.influence.recursion import Recursion
from tests.lambdaml.influence.little import OWNERS, Little, local_steps, trained, walked, without
from tests.lambdaml.lab import model_bytes

VARIED = {"plain": {}, "decay and a schedule": {"decay": 0.05, "falls": True}}


@pytest.mark.parametrize("options", VARIED.values(), ids=VARIED.keys())
def test_exact_products_are_the_derivative_of_local_steps_by_finite_differences(options: dict[str, Any]) -> None:
    job = Little(**options)
    seen = []

    def look(federated: FederatedRun, found: Round) -> None:
        base, h = federated.weights(), 1e-5
        rows = torch.randn(2, federated.size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        for number, turn in enumerate(found.turns):
            carried = ExactProducts(federated).carry(turn, found.step, rows, [slice(0, federated.size)])
            for row, products in zip(rows, carried, strict=True):
                ends = [local_steps(job, federated, found, number, base + sign * h * row) for sign in (1, -1)]
                torch.testing.assert_close(products, (ends[0] - ends[1]) / (2 * h), rtol=1e-6, atol=1e-8)
                seen.append(turn.client)
        assert torch.equal(federated.weights(), base)

    walked(trained(job, steps=3), job, look)
    assert len(seen) == 12


def test_blocks_leave_out_what_one_layer_does_to_another() -> None:
    job = Little()

    def look(federated: FederatedRun, found: Round) -> None:
        first, last = federated.layers()
        assert (first, last) == (slice(0, 28), slice(28, 43))
        rows = torch.eye(federated.size, dtype=torch.float64)
        turn, exact = found.turns[0], ExactProducts(federated)
        carried = exact.carry(turn, found.step, rows, [first, last])
        assert not carried[first, last].any() and not carried[last, first].any()
        if turn.due.batches == 1:
            whole = exact.carry(turn, found.step, rows, [slice(0, federated.size)])
            torch.testing.assert_close(carried[first, first], whole[first, first])
            torch.testing.assert_close(carried[last, last], whole[last, last])

    walked(trained(job, algorithm="local:1", steps=2), job, look)
    walked(trained(job, steps=1), job, look)


def test_the_recursion_with_recorded_gradients_is_that_of_a_plain_loop_in_numpy() -> None:
    job = Little(decay=0.01)
    run = trained(job)
    recorded: dict[tuple[int, int], Any] = {}
    random = np.random.RandomState(0)
    expected = np.zeros((5, 43))
    federated = FederatedRun(run, job)

    def gradients(worker: int, seq: int) -> Any:
        return recorded.setdefault((worker, seq), random.normal(size=(3, 7, 43)))

    recursion, fisher = (
        Recursion(federated, [[client] for client in range(5)], "none"),
        FisherProducts(federated, gradients),
    )
    for found in federated.rounds():
        recursion.advance(found, fisher)
        before = expected.copy()
        for client in range(5):
            others = [turn for turn in found.turns if turn.client != client]
            size = sum(OWNERS.count(turn.client) for turn in others)
            term = np.zeros(43)
            for turn in others:
                sigma = before[client].copy()
                for each in recorded.get(turn.update, np.zeros((3, 7, 43))):
                    fisher_product = sum(z * (z @ sigma) for z in each) / 7
                    sigma = sigma - job.lr * (fisher_product + job.decay * sigma)
                term += OWNERS.count(turn.client) / size * sigma
            whole = sum(OWNERS.count(turn.client) for turn in found.turns)
            mean = sum(OWNERS.count(turn.client) / whole * turn.moved.numpy() for turn in found.turns)
            left = sum(OWNERS.count(turn.client) / size * turn.moved.numpy() for turn in others)
            expected[client] = term + (left - mean)
    np.testing.assert_allclose(recursion.differences.numpy(), expected, rtol=1e-9, atol=1e-12)


def test_the_difference_is_nearly_the_one_of_training_without_the_client() -> None:
    job = Little(lr=0.05)
    run = trained(job, steps=10)
    federated = FederatedRun(run, job)
    recursion = Recursion(federated, [[client] for client in range(5)], "none")
    for found in federated.rounds():
        recursion.advance(found, ExactProducts(federated))
    for client in range(5):
        truth = without(job, run, [client]) - federated.weights()
        assert (recursion.differences[client] - truth).norm() < 0.1 * truth.norm()


def test_without_removing_anybody_the_difference_is_zero_and_the_walk_ends_with_the_bits_of_the_run() -> None:
    job = Little(decay=0.01, falls=True, drops=0.5)
    run = trained(job)
    federated = FederatedRun(run, job)
    recursion = Recursion(federated, [[], [0]], "client")
    for found in federated.rounds():
        recursion.advance(found, ExactProducts(federated))
    assert not recursion.differences[0].any() and recursion.differences[1].any()
    walked_to, result = federated.replica.state().dump_model(), model_bytes(run)
    assert hashlib.sha256(walked_to).digest() == hashlib.sha256(result).digest()


def test_a_round_of_one_client_is_no_step_without_it() -> None:
    job = Little()
    run = trained(job, schedule="cohort:1", steps=4)
    federated = FederatedRun(run, job)
    recursion, begun = Recursion(federated, [[client] for client in range(5)], "none"), federated.weights()
    for found in federated.rounds():
        before = recursion.differences.clone()
        recursion.advance(found, ExactProducts(federated))
        (turn,) = found.turns
        torch.testing.assert_close(recursion.differences[turn.client], before[turn.client] - turn.moved)
    alone = Recursion(federated := FederatedRun(run, job), [range(5)], "none")
    for found in federated.rounds():
        alone.advance(found, ExactProducts(federated))
    torch.testing.assert_close(federated.weights() + alone.differences[0], begun)


@pytest.mark.parametrize("truncation", ["none", "layer", "client"])
def test_what_grows_is_dropped_from_then_on(truncation: Any) -> None:
    job = Little(lr=3.0)
    federated = FederatedRun(trained(job, steps=8), job)
    recursion = Recursion(federated, [[client] for client in range(5)], truncation)
    growing = np.random.RandomState(1).normal(size=(3, 7, 43))  # a step of 3 along these is far too large
    sizes = []
    for found in federated.rounds():
        recursion.advance(found, FisherProducts(federated, lambda worker, seq: growing))
        moved = max(float(turn.moved.norm()) for turn in found.turns)
        sizes.append(float(recursion.differences.norm(dim=1).max()) / moved)
    assert (max(sizes) > 1e6) == (truncation == "none")
    if truncation == "layer":  # nothing is left but the last round's combinatorial part
        absent = [client for client in range(5) if client not in {turn.client for turn in found.turns}]
        assert not recursion.differences[absent].any()


def test_an_unknown_truncation_is_refused() -> None:
    federated = FederatedRun(trained(job := Little(), steps=1), job)
    with pytest.raises(SettingsError, match="there is no truncation 'layers'.*'layer'"):
        Recursion(federated, [[0]], "layers")  # type: ignore[arg-type]
