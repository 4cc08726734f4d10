"""The weight w(tau) = 1: plain asynchronous SGD (Recht et al., "Hogwild!", arXiv 1106.5730)."""

from __future__ import annotations

from lambdaml.staleness import Rule


class Constant(Rule):
    """Lets every update count in full, however stale it is."""
