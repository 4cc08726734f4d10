"""Jobs have gradients or statistics, and an algorithm computes either."""

from __future__ import annotations

from lambdaml.algorithms import ALGORITHMS, STATISTICS
from lambdaml.errors import SettingsError
from lambdaml.job import Job
from lambdaml.options import RunOptions
from lambdaml.schedules import SCHEDULES, cohort_of, delay_of, in_rounds
from lambdaml.statistics_job import StatisticsJob


def demand_kind(job: Job, asked: RunOptions) -> None:
    """Make sure that the algorithm computes what the job has: gradients or statistics.

    Raises:
        SettingsError: If it does not, or if the schedule makes steps that would replace the statistics of other workers.
    """
    name, summing = type(job).__name__, STATISTICS in ALGORITHMS.make(asked.algorithm).gives
    if not isinstance(job, StatisticsJob):
        if summing:
            raise SettingsError(
                f"algorithm {asked.algorithm!r} needs a lambdaml.StatisticsJob, and {name} is none: it has gradients"
            )
        return
    if not summing:
        raise SettingsError(
            f"algorithm {asked.algorithm!r} needs gradients, and {name} has none: give --algorithm statistics"
        )
    schedule = SCHEDULES.make(asked.schedule)
    some = not in_rounds(schedule, asked.workers) or (cohort_of(schedule) or asked.workers) < asked.workers
    if job.rate == 1 and (some or delay_of(schedule)):
        raise SettingsError(
            f"schedule {asked.schedule!r} takes steps without the newest statistics of all workers, and with a rate of 1 each "
            f"replaces what {name} learnt before: give it a rate of less than 1, or use bsp"
        )
