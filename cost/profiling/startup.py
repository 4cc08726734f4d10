"""The time that a function takes from its first line to its first gradient: imports, and what the job loads.

It is measured in a process of its own, because it can be seen only once per process:

    python -m lambdaml.cost.profiling.startup '{"spec": "digits.py:Digits", "args": {}}'
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass

from lambdaml.algorithms import Assignment
from lambdaml.settings import JobSettings

_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Startup:
    """The start of a function on an idle machine.

    Attributes:
        import_s: The seconds until torch and lambdaml are imported.
        job_s: The seconds from there until the first gradient, less the time of the second one. They cover the job's
            import, its data and its model.
    """

    import_s: float
    job_s: float


def startup(job: JobSettings, algorithm: str = "gradient") -> Startup | None:
    """Measure the start, and return None if another process cannot import the job, or takes minutes to do so."""
    begin = time.perf_counter()
    command = [sys.executable, "-P", "-m", "lambdaml.cost.profiling.startup", job.model_dump_json(), algorithm]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=True, text=True)
        inside_s, job_s = json.loads(done.stdout)
    except (subprocess.SubprocessError, OSError, ValueError):
        return None
    return Startup(round(max(0.0, time.perf_counter() - begin - inside_s), 3), round(max(0.0, job_s), 3))


def _main(text: str, algorithm: str) -> None:
    from lambdaml.options import RunOptions
    from lambdaml.training.asked import settings_for
    from lambdaml.training.loading import load_job
    from lambdaml.training.one_thread import OneThread
    from lambdaml.training.replica import Replica

    begin = time.perf_counter()
    answer = os.dup(1)
    os.dup2(2, 1)  # standard output becomes standard error for whatever the job prints
    job = JobSettings.model_validate_json(text)

    def work() -> tuple[float, float]:
        instance = load_job(job.spec, dict(job.args))
        asked = RunOptions(workers=1, steps=1, algorithm=algorithm)
        replica = Replica(instance, settings_for(instance, job, asked))
        replica.compute(Assignment(0, 0, 0, 1))
        first = time.perf_counter()
        replica.compute(Assignment(0, 0, 0, 1))
        return first, time.perf_counter()

    with OneThread() as compute:
        first, second = compute.submit(work).result()
    os.write(answer, json.dumps([second - begin, (first - begin) - (second - first)]).encode())


if __name__ == "__main__":
    _main(*sys.argv[1:])
