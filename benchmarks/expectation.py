"""K-means and Gaussian mixtures, beside scikit-learn's from the same beginning, after as many passes.

    python benchmarks/expectation.py

The rows are scikit-learn's digits, 1,797 of 64 pixels, in ten clusters. Workers compute in one process and exchange by way of a
store in memory, so the requests are those of functions that host all workers. Beside them is what becomes of the inertia if
workers average the centres that they found, without regard to how many samples each has (as LambdaML's k-means does).
"""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import cluster, datasets, mixture

import lambdaml
from lambdaml.jobs import GaussianMixture, KMeans
from lambdaml.jobs.kmeans import Centres
from lambdaml.jobs.mixture import Mixture
from lambdaml.log import keys

PASSES, CLUSTERS, FLOOR = 40, 10, 1e-3


class SortedKMeans(KMeans):
    """The same rows, sorted by digit and cut into a run for each worker."""

    def partition(self, workers: int) -> list[int]:
        owners = np.empty(len(by_digit()), np.int64)
        for worker, part in enumerate(np.array_split(by_digit(), workers)):
            owners[part] = worker
        return list(owners.tolist())


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a run.

    Attributes:
        first: The model that it began with.
        metrics: The metrics of the result.
        still: The number of rounds after which the objective does not change any more.
        requests: The requests of a round.
        update_bytes: The size of an update.
    """

    first: Any
    metrics: dict[str, float]
    still: int
    requests: float
    update_bytes: int


def train(job: KMeans | GaussianMixture, workers: int, name: str) -> Outcome:
    """Train for `PASSES` passes."""
    url = f"memory://{name}-{workers}"
    result = lambdaml.train(
        job, url, workers=workers, functions=1, epochs=PASSES, algorithm="statistics", snapshot_every=PASSES, keep="all"
    )
    run, losses = lambdaml.Run(url, job), Counter[int]()
    for row in run.trace():
        losses[row["version"]] += row["loss"] * row["samples"]
    final = losses[PASSES]
    still = next(version for version in sorted(losses) if abs(losses[version] / final - 1) < 1e-12)
    sizes = [info.size_bytes for info in run.store.list(keys.UPDATES)]
    return Outcome(run.model(0), result.metrics, still, sum(result.requests.values()) / PASSES, max(sizes))


def by_digit() -> NDArray[Any]:
    """Return the numbers of the rows, sorted by digit."""
    return np.argsort(datasets.load_digits().target, kind="stable")


def of_scikit_learn(first: Any, rows: NDArray[Any]) -> tuple[float, int]:
    """Return the objective that scikit-learn reaches from this model, and its number of passes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # mixtures have not converged after so many passes
        if isinstance(first, Centres):
            begin = first.centres.detach().numpy().astype(np.float32)
            found = cluster.KMeans(CLUSTERS, init=begin, n_init=1, max_iter=PASSES, tol=0, algorithm="lloyd").fit(rows)
            return found.inertia_ / len(rows), found.n_iter_
        assert isinstance(first, Mixture)
        weights, means, spread = (value.detach().numpy() for value in first.components())
        precisions = np.linalg.inv(spread) if first.full else 1 / spread
        made = mixture.GaussianMixture(
            CLUSTERS,
            covariance_type="full" if first.full else "diag",
            tol=0,
            reg_covar=FLOOR,
            max_iter=PASSES,
            weights_init=weights,
            means_init=means + first.origin.numpy(),
            precisions_init=precisions,
        ).fit(rows.astype(np.float64))
        return made.score(rows.astype(np.float64)), made.n_iter_


def averaged_centres(centres: NDArray[Any], shares: list[NDArray[Any]]) -> float:
    """Return the inertia if each round averages the centres of all workers, each as one."""
    for _ in range(PASSES):
        found = []
        for rows in shares:
            nearest = ((rows[:, None] - centres) ** 2).sum(2).argmin(1)
            own = [rows[nearest == k].mean(0) if (nearest == k).any() else centres[k] for k in range(CLUSTERS)]
            found.append(np.stack(own))
        centres = np.mean(found, 0)
    rows = np.concatenate(shares)
    return float(((rows[:, None] - centres) ** 2).sum(2).min(1).mean())


def main(folder: str) -> None:
    """Print the table. The folder is for a file of sparse rows."""
    rows, sparse = datasets.load_digits().data.astype(np.float32) / 16, f"{folder}/digits.libsvm"
    datasets.dump_svmlight_file(rows, np.zeros(len(rows)), sparse, zero_based=False)
    jobs: dict[str, KMeans | GaussianMixture] = {
        "k-means, dense": KMeans(CLUSTERS),
        "k-means, sparse": KMeans(CLUSTERS, sparse),
        "mixture, diag": GaussianMixture(CLUSTERS, "diag", floor=FLOOR),
        "mixture, full": GaussianMixture(CLUSTERS, "full", floor=FLOOR),
    }
    print(f"{PASSES} passes; requests with all workers in one function\n")
    print(
        "| | workers | reached | scikit-learn | ratio - 1 | still after | scikit-learn | requests a round | an update |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    begins: dict[str, Any] = {}
    for name, job in jobs.items():
        for workers in (1, 8):
            found = train(job, workers, name.replace(", ", "-"))
            begins[name] = found.first
            (value,) = found.metrics.values()
            theirs, passes = of_scikit_learn(found.first, rows)
            still = f"{found.still - 1}" if found.still < PASSES else "-"
            print(
                f"| {name} | {workers} | {value:.6f} | {theirs:.6f} | {value / theirs - 1:.1e} | {still} | {passes} | "
                f"{found.requests:.1f} | {found.update_bytes:,} bytes |"
            )
    begin = begins["k-means, dense"].centres.detach().numpy()
    dealt = {
        "dealt in turn": [rows[number::8] for number in range(8)],
        "sorted by digit": np.array_split(rows[by_digit()], 8),
    }
    print("\nCentres averaged over 8 workers without regard to counts, a plain loop:")
    for name, shares in dealt.items():
        print(f"  samples {name}: inertia {averaged_centres(begin, shares):.4f}")
    found = train(SortedKMeans(CLUSTERS), 8, "k-means-sorted")
    print(f"  with statistics, samples sorted by digit: {found.metrics['inertia']:.4f}")


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        main(folder)
