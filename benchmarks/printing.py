"""Measures what it takes to keep a line that a job prints or logs, and what a step takes for it that prints nothing.

Each figure is the least of several repetitions. The lines have 80 characters and go to the null device.
"""

from __future__ import annotations

import contextlib
import logging
import os
import timeit
from collections.abc import Callable

from lambdaml.training.output import captured, speaking_for

TIMES, REPETITIONS = 5_000, 20
"""The number of calls in a repetition, and of repetitions."""


def least_us(call: Callable[[], object]) -> float:
    """Return the microseconds of a call."""
    return 1e6 * min(timeit.repeat(call, number=TIMES, repeat=REPETITIONS)) / TIMES


def main() -> None:
    logger, line = logging.getLogger("job"), "x" * 80
    logger.addHandler(logging.NullHandler())

    def printing() -> None:
        print(line)

    def logging_it() -> None:
        logger.warning(line)

    with open(os.devnull, "w", encoding="utf-8") as null, contextlib.redirect_stdout(null):
        plain = [least_us(call) for call in (printing, logging_it)]
        with captured() as output, output.listening():
            kept = [least_us(call) for call in (printing, logging_it)]

        def marking() -> None:
            with output.listening(), speaking_for(0, 0):
                pass

        step_us = least_us(marking)
    for name, before, after in zip(("a print", "a record of logging"), plain, kept, strict=True):
        print(f"{name}: {before:.1f} us, and {after - before:.1f} us more to keep it")
    print(f"a step: {step_us:.1f} us more, whether it prints or not")


if __name__ == "__main__":
    main()
