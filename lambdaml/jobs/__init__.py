"""Ready jobs, to be trained as they are or with a data set of one's own.

    lambdaml train lambdaml.jobs:LogisticRegression --algorithm admm:1 --workers 8
    lambdaml train lambdaml.jobs:KMeans --algorithm statistics --workers 8 --set clusters=20 --set data=points.npy

A subclass with a `dataset` of its own takes any other data.
"""

from __future__ import annotations

from lambdaml.jobs.kmeans import KMeans
from lambdaml.jobs.linear import LinearSVM, LogisticRegression, Ridge
from lambdaml.jobs.mixture import GaussianMixture

__all__ = ["GaussianMixture", "KMeans", "LinearSVM", "LogisticRegression", "Ridge"]
