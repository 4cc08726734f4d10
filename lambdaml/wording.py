"""What screens and pages call a metric, so that all of them call it the same."""

from __future__ import annotations

from collections.abc import Mapping


def metric_name(name: str) -> str:
    """Return the name under which people are shown a metric; `loss` is told apart from the training loss."""
    return "evaluation loss" if name == "loss" else name


def metrics_text(values: Mapping[str, float]) -> str:
    """Return metrics in words, such as `accuracy 0.9667, evaluation loss 0.127`."""
    return ", ".join(f"{metric_name(name)} {value:.4g}" for name, value in values.items()) or "no metrics"
