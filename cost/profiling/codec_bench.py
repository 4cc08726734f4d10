"""Timing of codecs: each encodes the same few vectors, which then travel and are applied as they are in a run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from lambdaml.algorithms import Assignment
from lambdaml.codecs import CODECS, Codec, Layout
from lambdaml.cost.profiling.bench import MOST_ROUNDS, PAUSE_S, Bench
from lambdaml.cost.profiling.codecs import CodecTrial
from lambdaml.cost.profiling.facts import CodecFacts, LargeUpdate
from lambdaml.log.records import Update
from lambdaml.training.bodies import split_body

if TYPE_CHECKING:
    from lambdaml.log.snapshot import State

LARGE_NUMBERS = 2**20
"""The numbers to which the job's vectors are repeated if they have fewer, and the codec is timed again."""

_LEAST_ROUNDS = 3
"""The least rounds with the job's own codec. Others get one if time is short."""


def time_codecs(
    bench: Bench, trials: Sequence[CodecTrial], seconds: float, tell: Callable[[float], None]
) -> tuple[dict[str, CodecFacts], float]:
    """Return the costs of codecs, and the seconds of an optimizer step without updates.

    The codecs share the time in order; those for which none is left are left out, unless they are needed.

    Args:
        trials: The codecs to measure. The first is the replica's own.
        tell: A function that is told the finished share.
    """
    begun, found, optimizer_s = bench.clock(), dict[str, CodecFacts](), 0.0
    vectors = {bench.replica.settings.algorithm: _Vectors(bench)}
    for number, trial in enumerate(trials):
        left_s = seconds - (bench.clock() - begun)
        if left_s <= 0 and not trial.needed:
            continue
        if trial.algorithm not in vectors:
            vectors[trial.algorithm] = _Vectors(bench.computing(trial.algorithm))
        least = 1 if number else _LEAST_ROUNDS
        times = vectors[trial.algorithm].travel(trial.codec, left_s / (len(trials) - number), least)
        found[trial.codec] = times.facts()
        if not number:
            optimizer_s = max(0.0, median(times.step_s) - median(times.apply_s))
        tell((number + 1) / len(trials))
    bench.reset()
    return found, optimizer_s


@dataclass(slots=True)
class _Times:
    """The times of one codec in seconds, each measured alone."""

    encode_s: list[float] = field(default_factory=list)
    read_s: list[float] = field(default_factory=list)
    apply_s: list[float] = field(default_factory=list)
    step_s: list[float] = field(default_factory=list)
    update_bytes: int = 0
    large: LargeUpdate | None = None

    def medians(self) -> tuple[float, float, float]:
        """Return the medians of the times of encoding, reading and applying."""
        return median(self.encode_s), median(self.read_s), median(self.apply_s)

    def facts(self) -> CodecFacts:
        """Return the medians of the times."""
        return CodecFacts(self.update_bytes, *self.medians(), self.large)


class _Vectors:
    """The vectors that codecs encode, as one algorithm computes them."""

    def __init__(self, bench: Bench) -> None:
        self._bench, self._replica, self._codec = bench, bench.replica, bench.replica.codec
        bench.step()
        self._updates = bench.updates(3)
        self._buffers_s = median(update.encode_s for update in self._updates)
        """The seconds for comparing and restoring buffers after a gradient, which count as encoding."""
        self._warm: State = self._replica.state()

    def travel(self, codec: str, seconds: float, least: int) -> _Times:
        """Time one codec, from a state that holds the optimizer's own, for at least so many rounds. No timed step is the
        first one."""
        bench, replica = self._bench, self._replica
        own = replica.settings, replica.codec, replica.parts
        made = CODECS.make(codec)
        replica.settings, replica.codec = own[0].model_copy(update={"codec": codec}), made
        replica.parts = replace(own[2], codec=made)
        times, begun, rounds = _Times(), bench.clock(), 0
        try:
            while rounds < least or (bench.clock() - begun < seconds and rounds < MOST_ROUNDS // 4):
                replica.load(self._warm)
                updates = [self._travelled(update, times) for update in self._updates]
                bench.apply(updates[:1])
                for update in updates[1:]:
                    time.sleep(PAUSE_S)
                    times.step_s.append(bench.apply([update]))
                rounds += 1
            if 2 * replica.flat.size <= LARGE_NUMBERS:
                times.large = self._large(replica.codec)
        finally:
            replica.settings, replica.codec, replica.parts = own
        return times

    def _travelled(self, plain: Update, times: _Times) -> Update:
        """Encode a plain update with the replica's codec, note the times, and return the update as read back."""
        replica, clock = self._replica, self._bench.clock
        update = replace(plain, codec=replica.settings.codec)
        encoded, rows, rest = split_body(plain.body)
        layout, assignment = replica.rows.layout(rows), Assignment(0, plain.seq, *(plain.batches or (plain.seq, 1)))
        (vector,) = encoded.values()
        context = replica.local.context(assignment, 0, lambda whole: replica.rows.pack(whole, rows))
        total = np.zeros(replica.flat.size, vector.dtype)
        time.sleep(PAUSE_S)
        begun = clock()
        update.body = replica.codec.encode(vector, layout, context) | rows | rest
        data = update.pack()
        times.encode_s.append(self._buffers_s + clock() - begun)
        time.sleep(PAUSE_S)
        packed = clock()
        read = Update.unpack(data, update.worker, update.seq)
        replica.check(read)
        times.read_s.append(clock() - packed)
        encoded, rows, _ = split_body(read.body)
        begun = clock()
        replica.rows.add(replica.codec, encoded, rows, 1.0, total, fresh=False)
        times.apply_s.append(clock() - begun)
        times.update_bytes = sum(array.nbytes for array in update.body.values())
        return read

    def _large(self, codec: Codec) -> LargeUpdate:
        """Time the codec with the first vector, repeated until it has `LARGE_NUMBERS`, as that of a model with so many
        times as many rows in each tensor."""
        replica, clock, plain = self._replica, self._bench.clock, self._updates[0]
        whole = replica.rows.unpack(self._codec, *split_body(plain.body)[:2])
        copies = -(-LARGE_NUMBERS // len(whole))
        vector = np.tile(whole, copies)
        shapes = ((copies * math.prod(shape[:1]), *shape[1:]) for shape in replica.flat.layout.shapes)
        layout = Layout(tuple(shapes), replica.flat.layout.dtype)
        own = replica.local.context(Assignment(0, plain.seq, plain.seq, 1), 0, lambda values: np.tile(values, copies))
        times, total = _Times(), np.zeros_like(vector)
        for _ in range(2):
            moments = [clock()]
            update = replace(plain, codec=replica.settings.codec, body=codec.encode(vector, layout, own))
            data = update.pack()
            moments.append(clock())
            body = Update.unpack(data, update.worker, update.seq).body
            codec.check(body, layout)
            np.isfinite(codec.values(body, layout)).all()
            moments.append(clock())
            codec.add(body, 1.0, total, layout, slice(0, layout.size))
            moments.append(clock())
            for group, (begun, ended) in zip((times.encode_s, times.read_s, times.apply_s), pairwise(moments)):
                group.append(ended - begun)
        return LargeUpdate(copies, *times.medians())
