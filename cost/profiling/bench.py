"""Timing of one job in one thread: gradients of several batch sizes, codecs, optimizer steps, snapshots, memory.

Gradients and the work after them alternate as they do in a run, and batch sizes take turns, so that a machine that
changes its pace meanwhile does not make one of them look slower than another. A function waits for the store between
its pieces of work, so a pause precedes each piece here: work after a pause takes 1 to 3 ms longer, since caches are
cold and the core may have been put to sleep.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from lambdaml.algorithms import Assignment
from lambdaml.cost.profiling.facts import MemoryModel, StepPoint, StepTime
from lambdaml.cost.profiling.fit import batch_sizes, line, quantile, spread
from lambdaml.log.commits import averaged
from lambdaml.log.records import Update
from lambdaml.training.sampling import Sampler

if TYPE_CHECKING:
    from lambdaml.job import Job
    from lambdaml.settings import Settings

PAUSE_S = 0.02
"""The seconds of the pause before each piece of work."""

_LEAST_ROUNDS = 3
MOST_ROUNDS = 200


class Bench:
    """A replica that is timed. Use it in the thread of tensor work; see `lambdaml.training.one_thread.OneThread`.

    Raises:
        JobFailed, JobError: If the job's own code failed.
    """

    def __init__(self, job: Job, settings: Settings, device: str, clock: Callable[[], float]) -> None:
        from lambdaml.training.replica import Replica

        self.clock = clock
        self.replica = Replica(job, settings, clock, device)
        self.gradients = 0
        self._initial = self.replica.state()

    def computing(self, algorithm: str) -> Bench:
        """Return a bench of the same job with a replica that computes as this algorithm does."""
        replica = self.replica
        settings = replica.settings.model_copy(update={"algorithm": algorithm})
        return Bench(replica.job, settings, str(replica.device), self.clock)

    def reset(self) -> None:
        """Put the replica back to version 0."""
        self.replica.load(self._initial)

    def sizes(self, batch_size: int) -> Sampler:
        """Return a sampler with batches of this many samples, as nearly as equal batches allow."""
        settings = self.replica.settings
        return Sampler(settings.samples, 1, batch_size, settings.seed)

    def gradient_s(self, sampler: Sampler, seq: int) -> tuple[int, float]:
        """Return the samples and the seconds of a gradient."""
        kept, self.replica.local.sampler = self.replica.sampler, sampler
        try:
            found = self.replica.compute(Assignment(0, seq, seq, 1))
        finally:
            self.replica.local.sampler = kept
        self.gradients += 1
        return found.samples, found.compute_s

    def step(self) -> None:
        """Take one optimizer step of a training with one worker."""
        (update,) = self.updates(1)
        self.apply([update])

    def updates(self, count: int) -> list[Update]:
        """Return the next updates of worker 0, all computed from the present version. Their bodies are copies."""
        replica, first = self.replica, self.replica.log_state.next_seq[0]
        updates = [replica.update(0, seq) for seq in range(first, first + count)]
        self.gradients += count
        return updates

    def apply(self, updates: list[Update]) -> float:
        """Return the seconds of one optimizer step with these updates."""
        commit = averaged(self.replica.log_state.commit, self.replica.version, updates)
        begun = self.clock()
        self.replica.apply(commit, {update.id: update for update in updates})
        return self.clock() - begun

    def steps(self, seconds: float, tell: Callable[[float], None]) -> tuple[StepTime, MemoryModel]:
        """Time gradients of several batch sizes, each a few times, for about this many seconds.

        Args:
            tell: A function that is told the finished share.
        """
        settings = self.replica.settings
        samplers = [self.sizes(size) for size in batch_sizes(settings.batch_size, settings.samples)]
        samplers = list({sampler.count(0, 0): sampler for sampler in samplers}.values())
        begun = self.clock()
        peaks_mb = self._peaks_mb(samplers)
        times: list[list[float]] = [[] for _ in samplers]
        counts = [0] * len(samplers)
        for number in range(MOST_ROUNDS):
            share = (self.clock() - begun) / seconds if seconds else 1.0
            if share >= 1 and number >= _LEAST_ROUNDS:
                break
            tell(min(1.0, share))
            for index, sampler in enumerate(samplers):
                time.sleep(PAUSE_S)
                counts[index], took_s = self.gradient_s(sampler, number)
                times[index].append(took_s)
        points = tuple(
            StepPoint(count, len(group), median(group), quantile(group, 0.95), quantile(group, 0.99), peak)
            for count, group, peak in zip(counts, times, peaks_mb)
        )
        return step_time(points, times), memory_model(points)

    def _peaks_mb(self, samplers: list[Sampler]) -> list[float]:
        """Return this process's peak memory for a gradient of each, besides optimizer state; this also warms up."""
        self.step()
        peaks = []
        for sampler in samplers:
            _forget_peak()
            self.gradient_s(sampler, 0)
            peaks.append(_peak_mb())
        self.reset()
        return peaks

    def snapshot(self) -> tuple[int, int, float]:
        """Return the bytes of the model and of a snapshot, and the seconds to make one, with the optimizer's state."""
        self.step()
        times = []
        for _ in range(3):
            begun = self.clock()
            snapshot = self.replica.shared_state().dump()
            times.append(self.clock() - begun)
        model = self.replica.shared_state().dump_model()
        self.reset()
        return len(model), len(snapshot), median(times)


def step_time(points: tuple[StepPoint, ...], times: list[list[float]]) -> StepTime:
    """Return the line through the points' medians, and the spread of the times."""
    overhead_s, slope_s = line([(point.batch_size, point.median_s) for point in points])
    sigma, p95, p99 = spread(times)
    worst = max(abs((overhead_s + slope_s * p.batch_size) / p.median_s - 1) for p in points)
    return StepTime(overhead_s, slope_s, sigma, p95, p99, worst, points)


def memory_model(points: tuple[StepPoint, ...]) -> MemoryModel:
    """Return the line through the points' peaks."""
    return MemoryModel(*line([(point.batch_size, point.peak_memory_mb) for point in points]))


def _forget_peak() -> None:
    """Reset the peak, where the system can (Linux). Elsewhere peaks only rise, as they also do here."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_mb() -> float:
    with suppress(OSError, ValueError, IndexError):
        status = Path("/proc/self/status").read_text()
        return float(status.split("VmHWM:")[1].split()[0]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 1024)
