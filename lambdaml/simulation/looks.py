"""Looks for many objects at once, each until the object is found, as `lambdaml.worker.looking.Looks` makes them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lambdaml.simulation.draws import ARRAYS, Floats, Ints
from lambdaml.simulation.scenario import Scenario
from lambdaml.worker.poll_timer import Backoff


class Found(NamedTuple):
    """The looks for several objects, each from the first look until one found the object. Arrays have one number each.

    Attributes:
        begun_s: The moment at which the last look began.
        seen_s: The moment at which the last look reached the store.
        found_s: The moment at which the last look was answered.
        misses: The number of looks that found nothing.
        missed_s: The seconds that these took, without the pauses between them.
    """

    begun_s: Floats
    seen_s: Floats
    found_s: Floats
    misses: Ints
    missed_s: Floats


def look(scenario: Scenario, first_s: Floats, stands_s: Floats, scale_s: Floats, each: float = 1.0) -> Found:
    """Look for objects from `first_s` on until each is found, with the pauses of `Backoff`.

    As long as the store refuses none, all first looks are one turn, all second ones the next, and so on. Otherwise a turn
    is a short time, so that looks and repeated requests come in their order, unless the limit is coarse.

    Args:
        scenario: The run, whose latencies and limits hold.
        first_s: The moment of the first look for each object.
        stands_s: The moment from which each object exists.
        scale_s: The scale of the pauses for each object, in seconds.
        each: The number of requests that one look represents.
    """
    count, limit, reads = first_s.size, scenario.read_limit, scenario.reads
    pause_s = Backoff(ARRAYS, scale_s).pause_s
    begun, latency_s, missed = first_s.copy(), reads.many(count), np.zeros(count)
    reached, found = begun + latency_s / 2, np.empty(count)
    misses, attempts = np.zeros(count, np.int64), np.zeros(count, np.int64)
    waits = np.arange(count)
    while waits.size:
        if limit.in_turns(waits.size * each):
            due, served = limit.turn(reached[waits], each)
        else:
            reached[waits] = limit.serve(reached[waits], each)
            due, served = np.arange(waits.size), np.ones(waits.size, np.bool_)
        if not served.all():
            refused = waits[due[~served]]
            attempts[refused] += 1
            reached[refused] = limit.again(reached[refused], attempts[refused], each)
        due = due[served]
        answered = waits[due]
        found[answered] = reached[answered] + latency_s[answered] / 2
        early = reached[answered] < stands_s[answered]
        again = answered[early]
        if again.size:
            misses[again] += 1
            missed[again] += found[again] - begun[again]
            backoff = Backoff(ARRAYS, scale_s[again])
            backoff.pause_s = pause_s[again]
            begun[again] = found[again] + backoff.next_s(scenario.rng.random(again.size))
            pause_s[again], attempts[again] = backoff.pause_s, 0
            latency_s[again] = reads.many(again.size)
            reached[again] = begun[again] + latency_s[again] / 2
        left = np.ones(waits.size, np.bool_)
        left[due[~early]] = False
        waits = waits[left]
    return Found(begun, reached, found, misses, missed)
