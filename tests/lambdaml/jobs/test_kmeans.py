"""K-means, beside a plain loop and beside scikit-learn's."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load
from sklearn import cluster

import lambdaml
from lambdaml.errors import JobError
from lambdaml.jobs import KMeans
from lambdaml.jobs.clouds import plus_plus, squared_norms
from lambdaml.jobs.kmeans import Centres
from lambdaml.training.calls import fetch
from lambdaml.training.sampling import Sampler
from tests.lambdaml.jobs.rows import as_libsvm, blobs, digits
from tests.lambdaml.lab import model_bytes

PASSES = 10


def train(job: Any = "lambdaml.jobs:KMeans", **options: Any) -> tuple[lambdaml.Run, lambdaml.TrainResult]:
    url = f"memory://{secrets.token_hex(6)}"
    options = {"epochs": PASSES, "algorithm": "statistics", "engine": "inline", **options}
    result = lambdaml.train(job, url, **options)
    return lambdaml.Run(url, job if isinstance(job, lambdaml.Job) else None), result


def first_centres(run: lambdaml.Run) -> np.ndarray[Any, Any]:
    """The centres that a run began with."""
    model = run.model(0)
    assert isinstance(model, Centres)
    return model.centres.detach().numpy()


def test_one_worker_has_the_bits_of_a_plain_loop() -> None:
    job = KMeans()
    job.batch_size = 700  # three batches a pass
    run, _ = train(job, workers=1, epochs=4)
    model = run.model(0)
    assert isinstance(model, Centres)
    rows, sums, counts = digits(), model.sums.detach().clone(), model.counts.detach().clone()
    sampler = Sampler(len(rows), 1, 700, 0)
    for number in range(4):
        centres = sums / counts[:, None]
        sums, counts = torch.zeros_like(sums), torch.zeros_like(counts)
        for batch in range(number * sampler.steps_per_epoch, (number + 1) * sampler.steps_per_epoch):
            own, of_batch = torch.zeros_like(sums), torch.zeros_like(counts)
            for row in rows[torch.from_numpy(sampler.indices(0, batch))].double():
                nearest = (row - centres).square().sum(1).argmin()
                own[nearest] += row
                of_batch[nearest] += 1
            sums += own
            counts += of_batch
        sums, counts = sums / len(rows), counts / len(rows)
    found = load(model_bytes(run))
    assert torch.equal(found["sums"], sums) and torch.equal(found["counts"], counts)


@pytest.mark.parametrize("kind", ["dense", "sparse"])
@pytest.mark.parametrize("workers", [1, 8])
def test_the_inertia_is_scikit_learns_after_as_many_passes_from_the_same_centres(
    kind: str, workers: int, tmp_path: Path
) -> None:
    data = as_libsvm(digits(), tmp_path / "rows.libsvm") if kind == "sparse" else "digits"
    run, result = train(args={"data": data}, workers=workers)
    rows = digits().numpy()
    begin = first_centres(run).astype(np.float32)
    theirs = cluster.KMeans(10, init=begin, n_init=1, max_iter=PASSES, tol=0, algorithm="lloyd").fit(rows)
    assert result.metrics["inertia"] == pytest.approx(theirs.inertia_ / len(rows), rel=1e-4)
    assert result.version == PASSES


def test_dense_and_sparse_rows_have_the_same_statistics(tmp_path: Path) -> None:
    dense, sparse = KMeans(5), KMeans(5, as_libsvm(digits(), tmp_path / "rows.libsvm"))
    torch.manual_seed(0)
    model = dense.model()
    torch.manual_seed(0)
    assert torch.equal(sparse.model().get_parameter("sums"), model.get_parameter("sums"))
    numbers = list(range(100, 300))
    one, other = (job.statistics(model, fetch(job, job.dataset(), numbers)) for job in (dense, sparse))
    torch.testing.assert_close(one[0], other[0], rtol=1e-12, atol=0)
    assert torch.equal(one[1]["counts"], other[1]["counts"])
    torch.testing.assert_close(one[1]["sums"], other[1]["sums"], rtol=1e-12, atol=1e-12)


def test_the_inertia_is_the_squared_distance_from_the_nearest_centre() -> None:
    rows, centres = blobs().double(), blobs(7).double()
    wanted = torch.cdist(rows, centres).min(1).values.square().sum()
    found, _ = KMeans(7).statistics(Centres(centres), rows)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)


@pytest.mark.parametrize("rate", [1.0, 0.3])
def test_a_cluster_that_no_sample_is_nearest_to_keeps_its_centre(rate: float) -> None:
    job, rows = KMeans(2, rate=rate), blobs(groups=1).double()
    model = Centres(torch.stack([rows.mean(0), rows.mean(0) + 1000]))
    before = model.centres.detach().clone()
    optimizer, (_, sums) = job.optimizer(model), job.statistics(model, rows)
    for _ in range(3):
        for name, parameter in model.named_parameters():
            parameter.grad = sums[name] / len(rows)
        optimizer.step()
    torch.testing.assert_close(model.centres[1], before[1], rtol=1e-12, atol=0)
    torch.testing.assert_close(model.centres[0], rows.mean(0), rtol=1e-9, atol=1e-9)


def test_k_means_plus_plus_begins_in_every_cloud_and_copes_with_rows_that_are_alike() -> None:
    rows = blobs(apart=100.0)
    for seed in range(20):
        torch.manual_seed(seed)
        chosen = plus_plus([rows[:130], rows[130:].to_sparse_csr()], 3)
        assert len(set(torch.cdist(chosen.float(), rows[:3]).argmin(1).tolist())) == 3
    assert plus_plus([torch.ones(5, 2)], 4).tolist() == [[1.0, 1.0]] * 4


def test_the_squared_length_of_a_row_is_the_same_dense_and_sparse() -> None:
    rows = blobs().relu()
    torch.testing.assert_close(squared_norms(rows.to_sparse_csr()), rows.double().square().sum(1))


def test_the_beginning_is_the_seeds() -> None:
    beginnings = [first_centres(train(workers=1, epochs=1, seed=seed)[0]) for seed in (0, 0, 1)]
    assert np.array_equal(beginnings[0], beginnings[1]) and not np.array_equal(beginnings[0], beginnings[2])


def test_mini_batches_with_a_falling_share_come_close_to_whole_passes() -> None:
    class Small(KMeans):
        batch_size = 64

        def scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
            return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (step + 2) ** -0.6)

    whole, parts = train(KMeans(), workers=4)[1], train(Small(), workers=4, algorithm="statistics:1")[1]
    assert parts.metrics["inertia"] <= 1.05 * whole.metrics["inertia"]
    alone = train(KMeans(rate=0.2), workers=4, schedule="asp")[1]
    assert alone.metrics["inertia"] <= 1.05 * whole.metrics["inertia"]


@pytest.mark.parametrize("name", ["rows.npy", "rows.npz", "table.npz", "rows.libsvm"])
def test_rows_come_from_a_file(name: str, tmp_path: Path) -> None:
    path, rows = tmp_path / name, blobs()
    if name.endswith("libsvm"):
        as_libsvm(rows, path)
    elif name == "table.npz":
        np.savez(path, x=rows.numpy(), y=np.zeros(len(rows)))
    else:
        (np.save if name.endswith("npy") else np.savez)(path, rows.numpy())
    run, result = train(workers=2, args={"clusters": 3, "data": str(path)}, epochs=20)
    assert result.metrics["inertia"] == pytest.approx(4, rel=0.3), "as many as there are features"
    assert run.verify(deep=1.0).faults == []
    assert run.replay().digest() == run.replay(20).digest()


def test_bad_rows_and_numbers_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.npy"
    for rows, words in ((np.ones(3), "shape (3,)"), (np.full((3, 2), np.nan), "finite")):
        np.save(path, rows)
        with pytest.raises(JobError, match="row for each sample") as caught:
            train(workers=1, args={"data": str(path)})
        assert words in str(caught.value)
    np.save(path, np.ones((3, 2)))
    for args, words in (
        ({"data": str(path), "clusters": 4}, "4 clusters need as many samples, and there are 3"),
        ({"clusters": 0}, "1 cluster or more"),
        ({"data": str(tmp_path / "none.npy")}, "none.npy"),
        ({"rate": 2.0}, "KMeans.rate"),
    ):
        with pytest.raises(JobError) as caught:
            train(workers=1, args=args)
        assert words in str(caught.value) and "\n" not in str(caught.value) and caught.value.exit_code == 2
    with pytest.raises(JobError, match="a row for each sample, dense or CSR"):
        KMeans().statistics(Centres(torch.ones(1, 2)), "text")
