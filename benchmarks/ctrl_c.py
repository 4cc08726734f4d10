"""Press Ctrl-C under a terminal, at random moments of a run, and see how soon the command ends and what is left.

    python benchmarks/ctrl_c.py

A run of two functions with an evaluation at every update is timed once. Then it is started again and again, and Ctrl-C
is pressed at moments that are spread evenly over that time, except while Python itself is still starting. Each run that
has begun is resumed to its end and verified. Each must end within 2 s, without a traceback, and each run must be
resumable.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import tempfile
from pathlib import Path
from random import Random
from statistics import median

from lambdaml.cli._app import run as lambdaml_command

sys.path.insert(0, str(Path(__file__).parent))
from _terminal import Shown, in_terminal

JOB = f"{Path(__file__).parent / 'jobs.py'}:Judged"
NEEDED_S = 2.0


def train(place: Path, press_at_s: float, steps: int) -> Shown:
    options = ["--workers", "2", "--steps", str(steps), "--snapshot-every", "1", "--store", str(place)]
    command = [sys.executable, "-m", "lambdaml.cli", "train", JOB, *options]
    return in_terminal(command, lambda pid, seconds, text: seconds >= press_at_s and threads(pid) > 1)


def threads(pid: int) -> int:
    """Return how many threads a process has: a second one waits for Ctrl-C as soon as the command itself has begun."""
    return len(os.listdir(f"/proc/{pid}/task"))


def quietly(*arguments: str) -> int:
    """Run a command in this process, and return its exit status."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return lambdaml_command(arguments)


def fate(shown: Shown, place: Path) -> str:
    """Return what happened to a run whose command was interrupted, or what was wrong with that."""
    if shown.code is None:
        return "HUNG"
    if "Traceback" in shown.text or "Exception" in shown.text:
        return "TRACEBACK"
    if shown.code not in (0, 130):
        return f"STATUS {shown.code}"
    if shown.code == 0:
        return "had finished"
    if not (place / "run.json").exists():
        return "had not begun" if "lambdaml resume" not in shown.text else "WRONG WORDS"
    if "lambdaml resume" not in shown.text:
        return "WRONG WORDS"
    if quietly("resume", str(place), "--engine", "inline") or quietly("verify", str(place)):
        return "NOT RESUMED"
    return "resumed and verified"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--presses", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=400, help="updates of each worker")
    asked = parser.parse_args()
    random = Random(asked.seed)
    ends: list[float] = []
    fates: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        whole = train(Path(folder) / "whole", float("inf"), asked.steps)
        assert whole.code == 0, whole.text
        print(
            f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; a whole run takes {whole.seconds:.1f} s",
            flush=True,
        )
        length_s, number = whole.seconds, 0
        while len(ends) < asked.presses:
            number += 1
            place, at_s = Path(folder) / f"run{number}", random.uniform(0.0, length_s)
            shown = train(place, at_s, asked.steps)
            if shown.end_s is None:  # the machine is faster than before, so draw again
                length_s = shown.seconds
                continue
            fates.append(fate(shown, place))
            ends.append(shown.end_s)
            print(f"{len(ends):3d}  Ctrl-C at {at_s:5.2f} s: ended in {shown.end_s:.2f} s, {fates[-1]}", flush=True)
    ends.sort()
    print(f"load {os.getloadavg()[0]:.1f}")
    print(
        f"seconds to end: median {median(ends):.2f}, 90 % within {ends[int(0.9 * (len(ends) - 1))]:.2f}, most {ends[-1]:.2f}"
    )
    print(f"ended within {NEEDED_S:g} s: {sum(end <= NEEDED_S for end in ends)} of {len(ends)}")
    for name in sorted(set(fates)):
        print(f"{fates.count(name):3d}  {name}")


if __name__ == "__main__":
    main()
