"""Ready jobs, to be trained as they are or with a data set of one's own. Each is imported when it is named.

    lambdaml train lambdaml.jobs:LogisticRegression --algorithm admm:1 --workers 8
    lambdaml train lambdaml.jobs:KMeans --algorithm statistics --workers 8 --set clusters=20 --set data=points.npy

A subclass with a `dataset` of its own takes any other data.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a run's code is known by its imports
    from lambdaml.jobs.kmeans import KMeans as KMeans
    from lambdaml.jobs.linear import LinearSVM as LinearSVM
    from lambdaml.jobs.linear import LogisticRegression as LogisticRegression
    from lambdaml.jobs.linear import Ridge as Ridge
    from lambdaml.jobs.mixture import GaussianMixture as GaussianMixture

_MODULES = {
    "GaussianMixture": "mixture",
    "KMeans": "kmeans",
    "LinearSVM": "linear",
    "LogisticRegression": "linear",
    "Ridge": "linear",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_MODULES)
