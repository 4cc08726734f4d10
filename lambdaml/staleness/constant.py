"""w(tau) = 1: plain asynchronous SGD (Recht et al., "Hogwild!", arXiv 1106.5730)."""

from __future__ import annotations

from lambdaml.view import View


class Constant:
    """Every update counts in full, however stale."""

    def weight(self, staleness: int, view: View) -> float:
        return 1.0
