"""Effective staleness is the constant delay that is as hard on gradient descent as delays that vary.

On a quadratic of curvature h, steps of size eta on gradients that are some steps old are

    x[t+1] = x[t] - a * (mean of x[t - staleness] over the step's updates),      a = eta h

With a constant delay of d steps they converge for a < 2 sin(pi / (4 d + 2)) (Yang et al., PipeMare, 2019, arXiv
1910.05124, lemma 1). For any other course of delays we search for the a at which the steps begin to diverge, and invert
the formula to get a delay from it. So staleness is more than its mean:

* delays that scatter are easier to tolerate than their mean suggests, since they do not push in step;
* bursts of updates from one version are harder: n of them, of staleness 0 to n-1, are one step n times as long, which
  breaks at a = 2 / n, as a constant delay of about 0.785 n - 0.5 does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain, repeat

MOST_STEPS = 4_096
"""Only this many steps of a course, the last ones, are considered."""

_HALVINGS = 10
_DIVERGED = 1e6


def effective_staleness(steps: Sequence[Sequence[int]]) -> float:
    """Return the constant delay, in optimizer steps, that equals this course of delays.

    Args:
        steps: The staleness of the updates of each optimizer step. The course is assumed to repeat. More steps are
            better; a few hundred give a result that is accurate to some percent.
    """
    course = [list(step) for step in steps[-MOST_STEPS:] if step]
    longest = max(map(max, course), default=0)
    if not longest:
        return 0.0
    mean = sum(map(sum, course)) / sum(map(len, course))
    course *= math.ceil(2 * (4 * mean + 2) / len(course))
    low, high = 0.0, 2.0 * longest
    for _ in range(_HALVINGS):
        delay = (low + high) / 2
        if _diverges(course, 2 * math.sin(math.pi / (4 * delay + 2)), longest):
            low = delay
        else:
            high = delay
    return (low + high) / 2


def _diverges(course: Sequence[Sequence[int]], a: float, longest: int) -> bool:
    """Return whether |x| is greater in the fourth round through the course than in the third."""
    x = [1.0] * (longest + 1)
    for step in chain.from_iterable(repeat(course, 4)):
        if len(step) == 1:
            x.append(x[-1] - a * x[-1 - step[0]])
        else:
            x.append(x[-1] - a * sum(x[-1 - delay] for delay in step) / len(step))
        if abs(x[-1]) > _DIVERGED:
            return True
    length = len(course)
    return max(map(abs, x[-length:])) > max(map(abs, x[-2 * length : -length]))
