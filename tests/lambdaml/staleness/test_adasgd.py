"""What AdaSGD promises, on digits under synthetic staleness, with the rules themselves: many seeds at once.

One gradient makes one step, as in FLeet (arXiv 2006.07273): update t comes from the model of step t - d, with d from
that paper's delay model. 20 clients hold two shards each of the samples sorted by label. All seeds advance together,
as one batched computation; whatever is random depends on seed and step, so that rules are compared pairwise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch

from lambdaml.log.records import Commit, Entry
from lambdaml.log.state import LogState
from lambdaml.staleness import RULES
from lambdaml.traces.delays import DELAYS

Floats = np.ndarray[Any, np.dtype[np.float32]]

SEEDS, CLIENTS, BATCH, HIDDEN, CLASSES, PIXELS = 12, 20, 32, 64, 10, 64
SHAPES = ((PIXELS, HIDDEN), (1, HIDDEN), (HIDDEN, CLASSES), (1, CLASSES))
CUTS = np.cumsum([rows * columns for rows, columns in SHAPES])[:-1]
EVALUATE_EVERY = 5


@dataclass(frozen=True)
class Data:
    x: Floats
    y: Any
    test_x: Floats
    test_y: Any


@pytest.fixture(scope="module")
def digits() -> Data:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.RandomState(0).permutation(len(y))
    x, y = ((x[order] - x.mean(0)) / x.std(0).clip(1)).astype(np.float32), y[order]
    return Data(x[360:], y[360:], x[:360], y[:360])


def shards(y: Any, seed: int) -> list[Any]:
    """The samples of each client: two shards of the samples sorted by label."""
    pieces = np.array_split(np.argsort(y, kind="stable"), 2 * CLIENTS)
    order = np.random.RandomState(seed).permutation(2 * CLIENTS)
    return [np.concatenate([pieces[a], pieces[b]]) for a, b in order.reshape(CLIENTS, 2)]


@lru_cache(maxsize=SEEDS)
def turns(seed: int, turn: int) -> list[int]:
    """The clients in an order drawn anew each round: equal workers with one update in flight take turns."""
    order: list[int] = np.random.RandomState([seed, turn]).permutation(CLIENTS).tolist()
    return order


def layers(models: Floats) -> list[Floats]:
    """[seeds, size] as batches of matrices."""
    pieces = np.split(models, CUTS, axis=1)
    return [piece.reshape(-1, *shape) for piece, shape in zip(pieces, SHAPES, strict=True)]


def first_models() -> Floats:
    """Uniform within 1 / sqrt(inputs), as torch does for linear layers."""
    size = sum(rows * columns for rows, columns in SHAPES)
    return np.stack([np.random.RandomState(100 + s).uniform(-1 / 8, 1 / 8, size) for s in range(SEEDS)]).astype("f4")


def gradients(models: Floats, x: Floats, y: Any) -> Floats:
    """Of the mean cross-entropy, for each seed its own model and batch: x [seeds, batch, pixels]."""
    w1, b1, w2, b2 = layers(models)
    hidden = np.maximum(x @ w1 + b1, 0)
    logits = hidden @ w2 + b2
    shares = np.exp(logits - logits.max(axis=2, keepdims=True))
    shares /= shares.sum(axis=2, keepdims=True)
    np.put_along_axis(shares, y[:, :, None], np.take_along_axis(shares, y[:, :, None], 2) - 1, 2)
    shares /= x.shape[1]
    back = (shares @ w2.transpose(0, 2, 1)) * (hidden > 0)
    parts = (x.transpose(0, 2, 1) @ back, back.sum(1), hidden.transpose(0, 2, 1) @ shares, shares.sum(1))
    return np.concatenate([part.reshape(len(models), -1) for part in parts], axis=1)


def predictions(models: Floats, x: Floats) -> Any:
    w1, b1, w2, b2 = (torch.from_numpy(layer) for layer in layers(models))  # torch: with one thread, as tests run
    return (torch.relu(torch.from_numpy(x) @ w1 + b1) @ w2 + b2).argmax(2).numpy()


def train(
    data: Data,
    rule_name: str,
    delays: Callable[[int, list[int]], list[int]],
    steps: int,
    lr: float,
    target: float | None = None,
    clients: Callable[[int], list[Any]] = lambda seed: [],
) -> tuple[Floats, list[int]]:
    """The models after so many updates, or when all have met the target accuracy; and each seed's updates to target.

    Args:
        delays: of an update, given its number and the clients that compute it, one a seed.
    """
    rule = RULES.make(rule_name)
    held = [clients(seed) or shards(data.y, seed) for seed in range(SEEDS)]
    views = [LogState(CLIENTS, steps) for _ in range(SEEDS)]
    versions = [first_models()]
    reached = [0] * SEEDS
    for step in range(steps):
        stream = np.random.RandomState(step)
        workers = [turns(seed, step // CLIENTS)[step % CLIENTS] for seed in range(SEEDS)]
        draws = stream.randint(0, 2**31, (SEEDS, BATCH))
        chosen = np.stack([held[seed][w][draws[seed] % len(held[seed][w])] for seed, w in enumerate(workers)])
        bases = [max(0, step - delay) for delay in delays(step, workers)]
        x, y = data.x[chosen], data.y[chosen]
        weights = [judged(rule, views[seed], worker, bases[seed], y[seed]) for seed, worker in enumerate(workers)]
        read = np.stack([versions[base][seed] for seed, base in enumerate(bases)])
        move = gradients(read, x, y) * np.array(weights, np.float32)[:, None]
        versions.append(versions[-1] - np.float32(lr) * move)
        versions[max(0, step - 100)] = versions[-1]  # nobody reads that one any more
        if target is not None and (step + 1) % EVALUATE_EVERY == 0:
            accuracy = (predictions(versions[-1], data.test_x) == data.test_y).mean(1)
            reached = [was or (step + 1 if now >= target else 0) for was, now in zip(reached, accuracy, strict=True)]
            if all(reached):
                break
    return versions[-1], reached


def judged(rule: Any, log_state: LogState, worker: int, base: int, y: Any) -> float:
    """The rule's weight; the view then takes the update in."""
    labels = tuple(np.bincount(y).tolist()) if rule.labels else ()
    entry = Entry(worker, log_state.next_seq[worker], base, 1, BATCH, 0.0, log_state.version - base, labels=labels)
    weight = rule.judge(entry, log_state)
    assert weight is not None
    log_state.advance(Commit(log_state.commit, log_state.version, ((entry,),)))
    return float(weight)


def gaussian(size: int) -> Callable[[int, list[int]], list[int]]:
    model = DELAYS.make(f"gaussian:{size}")
    return lambda step, workers: model.matrix(step, 1, SEEDS)[0].tolist()


def accuracies(data: Data, models: Floats) -> Any:
    return (predictions(models, data.test_x) == data.test_y).mean(1)


def saving(data: Data, size: int) -> float:
    """The median share of updates to 85 % that AdaSGD saves against DynSGD; T = mean + 3 deviations = size - 1."""
    updates = []
    for rule in (f"exponential:threshold={size - 1}", "inverse"):
        _, reached = train(data, rule, gaussian(size), 2500, lr=0.05, target=0.85)
        assert all(reached)
        updates.append(np.array(reached))
    return float(np.median(1 - updates[0] / updates[1]))


def test_adasgd_saves_updates_against_dynsgd_and_the_more_the_more_staleness(digits: Data) -> None:
    """FLeet section 4 at the scale of digits: at least 5 % under N(6, 2), 12 % under N(12, 4)."""
    mild, strong = saving(digits, 13), saving(digits, 25)
    assert mild >= 0.05
    assert strong >= 0.12
    assert strong > mild


def test_without_dampening_training_diverges_at_a_rate_where_adasgd_and_synchronous_training_converge(
    digits: Data,
) -> None:
    found = {}
    for name, rule, size in (
        ("sync", "constant", 1),
        ("none", "constant", 25),
        ("ada", "exponential:threshold=24", 25),
    ):
        models, _ = train(digits, rule, gaussian(size), 300, lr=0.4)
        found[name] = accuracies(digits, models)
    assert np.median(found["sync"]) > 0.95
    assert min(found["ada"]) > 0.85
    assert np.median(found["none"]) < 0.5


def straggling(data: Data) -> tuple[Callable[[int], list[Any]], Callable[[int, list[int]], list[int]]]:
    """Class 0 is held by the last two clients alone, whose updates are 48 steps late; the others' are N(6, 2)."""
    zeros, others = np.flatnonzero(data.y == 0), np.flatnonzero(data.y != 0)
    usual = gaussian(13)

    def clients(seed: int) -> list[Any]:
        rest = np.array_split(others[np.argsort(data.y[others], kind="stable")], 2 * (CLIENTS - 2))
        order = np.random.RandomState(seed).permutation(len(rest)).reshape(-1, 2)
        return [np.concatenate([rest[a], rest[b]]) for a, b in order] + np.array_split(zeros, 2)

    def delays(step: int, workers: list[int]) -> list[int]:
        return [48 if w >= CLIENTS - 2 else delay for w, delay in zip(workers, usual(step, workers), strict=True)]

    return clients, delays


def test_a_class_that_only_stragglers_hold_is_learnt_with_boosting_and_not_without(digits: Data) -> None:
    clients, delays = straggling(digits)
    recall = {}
    for boost in ("none", "outliers", "all"):
        rule = f"exponential:threshold=12,boost={boost}"
        models, _ = train(digits, rule, delays, 500, lr=0.15, clients=clients)
        recall[boost] = (predictions(models, digits.test_x[digits.test_y == 0]) == 0).mean(1)
    assert np.median(recall["none"]) < 0.2
    assert np.median(recall["outliers"]) > 0.9
    assert np.median(recall["all"]) > 0.9
