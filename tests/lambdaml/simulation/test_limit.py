"""A store's limit for many requests at once, against a plain loop over a token bucket."""

from __future__ import annotations

import heapq
import random
from collections import Counter

import numpy as np
import pytest

from lambdaml.simulation.channel import Channel, TokenBucket
from lambdaml.simulation.draws import Latency
from lambdaml.simulation.limit import Limit
from lambdaml.storage.patience import outage_pause_s
from lambdaml.storage.retry import ATTEMPTS, pause_s

CHANNEL = Channel.parse("s3-standard")


def plain(at: list[float], rate_per_s: float, seed: int) -> tuple[list[float], int]:
    """When each request is served, and how many were refused, one request after the other."""
    chance, bucket, refused = random.Random(seed), TokenBucket(rate_per_s), 0
    served = [0.0] * len(at)
    heap = [(moment, place, 1) for place, moment in enumerate(at)]
    heapq.heapify(heap)
    while heap:
        now, place, attempt = heapq.heappop(heap)
        if bucket.take(now):
            served[place] = now
            continue
        refused += 1
        failures, trial = divmod(attempt, ATTEMPTS)
        wait_s = pause_s(trial, chance.uniform) if trial else outage_pause_s(failures, chance.uniform)
        heapq.heappush(heap, (now + CHANNEL.latency_s("get", chance.random()) + wait_s, place, attempt + 1))
    return served, refused


def limit(rate_per_s: float | None, seed: int) -> tuple[Limit, Counter[str]]:
    rng, errors = np.random.Generator(np.random.PCG64(seed)), Counter[str]()
    return Limit("get", rate_per_s, Latency(CHANNEL, "get", rng), rng.random, errors), errors


@pytest.mark.parametrize("requests, rate_per_s", [(300, 100.0), (3000, 300.0), (3000, 100.0)])
def test_requests_above_the_limit_are_served_when_a_plain_loop_serves_them(requests: int, rate_per_s: float) -> None:
    at = [10.2 + 0.3 * number / requests for number in range(requests)]
    truth, found = [plain(at, rate_per_s, seed) for seed in range(3)], []
    for seed in range(6):
        ours, errors = limit(rate_per_s, seed)
        found.append((ours.serve(np.array(at)), errors["get/Throttled"]))
    for what, tolerance in ((np.mean, 0.1), (np.median, 0.1), (np.max, 0.3)):
        late_s, truly_s = (np.mean([what(np.array(run[0]) - at) for run in runs]) for runs in (found, truth))
        assert late_s == pytest.approx(truly_s, rel=tolerance)
    refused, truly = (np.mean([run[1] for run in runs]) for runs in (found, truth))
    assert refused == pytest.approx(truly, rel=0.15)


def test_no_second_serves_more_than_two_seconds_worth_and_no_two_more_than_three() -> None:
    ours, _ = limit(100.0, 1)
    served = np.concatenate([ours.serve(np.sort(np.random.default_rng(n).uniform(5, 9, 150))) for n in range(8)])
    seconds = np.bincount(served.astype(int))
    assert seconds.sum() == 1200 and seconds.max() <= 201
    assert (
        max(seconds[start:end].sum() - 100 * (end - start) for start in range(15) for end in range(start + 1, 16)) < 110
    )


def test_a_request_that_finds_room_is_served_at_once_in_whatever_order_moments_come() -> None:
    ours, errors = limit(10.0, 1)
    assert [ours.serve_one(moment) for moment in (7.0, 3.0, 5.0)] == [7.0, 3.0, 5.0]
    free, _ = limit(None, 1)
    assert free.serve(np.full(10_000, 3.0)).max() == 3.0
    assert not errors
    assert ours.serve(np.full(25, 4.5)).max() > 5.0
    assert errors["get/Throttled"] > 0
