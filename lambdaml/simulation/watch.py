"""Functions that look for objects of others in each round, when their poll timers say so."""

from __future__ import annotations

import numpy as np

from lambdaml.simulation.draws import ARRAYS, Floats, Ints
from lambdaml.simulation.looks import look
from lambdaml.simulation.scenario import Scenario
from lambdaml.worker.poll_timer import PollTimer


class Watch:
    """Pairs of a function and an object that another function makes in each round.

    Args:
        scenario: The run's input and its counts.
        reader: The function of each pair, in rising order.
        latency_s: For each function, its estimate of the seconds that a look takes. It learns from looks that miss.
        each: The number of looks that one represents.
        together: Whether a function looks for all its objects at once; see `lambdaml.worker.poll_timer.RoundTimer`.
    """

    def __init__(
        self, scenario: Scenario, reader: Ints, latency_s: Floats, each: float = 1.0, together: bool = False
    ) -> None:
        self._scenario, self._reader, self._latency_s, self._each = scenario, reader, latency_s, each
        self._timer: PollTimer[Floats] = PollTimer(ARRAYS)
        self._starts = np.arange(reader.size)  # the first pair of each timer
        if together:
            self._starts = np.flatnonzero(np.concatenate(([True], reader[1:] != reader[:-1])))[: reader.size]
        self._timer_of = np.repeat(np.arange(self._starts.size), np.diff(self._starts, append=reader.size))

    def find(self, start_s: Floats, cold_s: Floats, stands_s: Floats) -> Floats:
        """Let the functions look until they have found all objects.

        Args:
            start_s: The moment from which the time of each object counts.
            cold_s: The moment of the first look as long as nothing is known about any object.
            stands_s: The moment from which each object exists.

        Returns:
            The moment at which each object would have arrived if it had no bytes.
        """
        if not self._reader.size:
            return np.empty(0)
        timed, delay_s = self._reader[self._starts], self._timer.delay_s()
        first = cold_s if delay_s is None else start_s + delay_s[self._timer_of]
        scale_s = np.broadcast_to(self._timer.scale_s(self._latency_s[timed]), timed.shape)[self._timer_of]
        looks = look(self._scenario, first, stands_s, scale_s, self._each)
        self._learn(looks.misses, looks.missed_s)
        late_s = np.maximum.reduceat(looks.begun_s - first, self._starts)
        self._timer.looked(late_s, self._latency_s[timed])
        self._scenario.got(0, misses=int(looks.misses.sum() * self._each))
        return looks.found_s

    def said(self, duration_s: Floats) -> None:
        """Note how long each object took, as its maker says in it."""
        if self._reader.size:
            self._timer.said(np.maximum.reduceat(duration_s, self._starts))

    def _learn(self, misses: Ints, missed_s: Floats) -> None:
        """Update each function's estimate by its looks that found nothing."""
        latency_s, functions = self._latency_s, self._latency_s.size
        count, elapsed_s = (np.bincount(self._reader, each, functions) for each in (misses, missed_s))
        kept = 0.8**count
        latency_s[:] = kept * latency_s + (1 - kept) * elapsed_s / np.maximum(count, 1.0)
