"""Learning rates for each model and algorithm, found at s = 0 before staleness is looked at.

The rate that is fastest without staleness says little about staleness: on small problems it meets the target in fewer
iterations than an update is under way. The rule is therefore to take, from a grid in steps of two, the smallest rate
for which the median of three seeds meets the target within 1.5 times the greater of 100 iterations and what the fastest
rate needs. This gives runs of similar length, far from the rates at which training without staleness breaks.

`RATES` was found by this rule on the bundled data with 8 workers, by `lambdaml study staleness --tune`. Updates are
summed over workers, so the step as a whole is larger by their number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lambdaml.errors import SettingsError

ITERATIONS = 100
"""The iterations that a synchronous run should take, about."""

_SPREAD = 1.5

_GRIDS: dict[str, tuple[float, int]] = {
    "sgd": (0.0025, 6),
    "momentum": (0.0005, 5),
    "adam": (0.000125, 5),
    "adagrad": (0.0005, 6),
    "rmsprop": (0.000125, 5),
}

_SMALLER = {"vae": 1 / 8}
"""The factors for models with larger gradients: the VAE's loss sums over features. Adaptive algorithms need none."""


def grid(model: str, algorithm: str) -> list[float]:
    """Return the rates to try, each of which is twice the one before."""
    smallest, count = _GRIDS[algorithm]
    scale = _SMALLER.get(model, 1.0) if algorithm in ("sgd", "momentum") else 1.0
    return [smallest * scale * 2.0**step for step in range(count)]


def choose(found: Mapping[float, Sequence[int | None]]) -> float:
    """Return the rate to take, from the iterations of each seed at each rate, where None is a target that was not met.

    Raises:
        SettingsError: If at no rate most seeds meet the target.
    """
    medians = {}
    for rate, iterations in found.items():
        ordered = sorted(iterations, key=lambda count: (count is None, count or 0))
        middle = ordered[len(ordered) // 2]
        if middle is not None:
            medians[rate] = middle
    if not medians:
        raise SettingsError(f"no learning rate of {', '.join(f'{rate:g}' for rate in found)} meets the target")
    longest = _SPREAD * max(ITERATIONS, min(medians.values()))
    return min(rate for rate, median in medians.items() if median <= longest)
