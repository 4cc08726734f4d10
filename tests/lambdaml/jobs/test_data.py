"""Tables: what is read is what stands in the file, and batches of sparse rows are batches of dense ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.datasets import dump_svmlight_file, load_svmlight_file
from torch import Tensor

from lambdaml.errors import JobError, SettingsError
from lambdaml.jobs.data import SparseRows, Table, product, read_table


def dense(table: Table) -> Tensor:
    """All rows of a table, by way of the identity matrix."""
    return product(table.rows, torch.eye(table.features))


@pytest.fixture
def matrix() -> tuple[sparse.csr_matrix, np.ndarray]:
    """Rows of 0 to 7 numbers; the last column has some."""
    random = np.random.RandomState(3)
    x = sparse.random(50, 7, 0.4, "lil", random_state=random)
    x[0, 6], x[7] = 1.5, 0.0
    return sparse.csr_matrix(x), random.choice([-1.0, 1.0, 4.0], 50)


@pytest.mark.parametrize("zero_based", [False, True])
def test_a_libsvm_file_is_read_as_scikit_learn_reads_it(
    tmp_path: Path, matrix: tuple[sparse.csr_matrix, np.ndarray], zero_based: bool
) -> None:
    path = str(tmp_path / "a.svm")
    dump_svmlight_file(*matrix, path, zero_based=zero_based, comment="a comment", query_id=np.arange(50))
    x, y = load_svmlight_file(path, n_features=7)
    for real in (True, False):
        table = read_table(path, real=real)
        assert (len(table), table.features) == (50, 7)
        np.testing.assert_array_equal(dense(table).numpy(), x.toarray().astype(np.float32))
        expected = y.astype(np.float32) if real else np.searchsorted([-1.0, 1.0, 4.0], y)
        np.testing.assert_array_equal(table.targets.numpy(), expected)
        assert table.classes == (0 if real else 3)


def test_npz_files_hold_dense_and_sparse_tables(tmp_path: Path, matrix: tuple[sparse.csr_matrix, np.ndarray]) -> None:
    x, y = matrix
    np.savez(tmp_path / "dense.npz", x=x.toarray(), y=y)
    np.savez(tmp_path / "sparse.npz", data=x.data, indices=x.indices, indptr=x.indptr, shape=x.shape, y=y)
    whole, parts = (read_table(str(tmp_path / f"{name}.npz"), real=True) for name in ("dense", "sparse"))
    assert isinstance(whole.rows, Tensor) and isinstance(parts.rows, SparseRows)
    for table in (whole, parts):
        np.testing.assert_array_equal(dense(table).numpy(), x.toarray().astype(np.float32))
        np.testing.assert_array_equal(table.targets.numpy(), y.astype(np.float32))


def test_a_batch_holds_the_rows_that_were_asked_for_in_their_order() -> None:
    table = read_table("generated:60,9,density=0.3", real=False)
    for numbers in ([5], [3, 3, 59, 0], list(range(60))[::-1]):
        rows, targets = table.__getitems__(numbers)
        assert torch.equal(product(rows, torch.eye(9)), dense(table)[numbers])
        assert torch.equal(targets, table.targets[numbers])
    rows, targets = table[7]
    assert torch.equal(product(rows, torch.eye(9))[0], dense(table)[7]) and targets.tolist() == [int(table.targets[7])]


def test_a_sparse_product_and_its_gradient_are_those_of_the_dense_matrix_and_the_same_each_time() -> None:
    table, weight = read_table("generated:500,40,density=0.1", real=False), torch.randn(40, 3)
    found = []
    for rows in (table.rows, table.rows, dense(table)):
        own = weight.clone().requires_grad_()
        result = product(rows, own)
        result.sin().sum().backward()
        found.append((result.detach(), own.grad))
    (first, gradient), (again, same), (expected, whole) = found
    assert torch.equal(first, again) and torch.equal(gradient, same)
    torch.testing.assert_close(first, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient, whole, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("source", ["generated:300,12", "generated:300,12,density=0.3"])
def test_the_curvature_is_the_largest_eigenvalue(source: str) -> None:
    table = read_table(source, real=True)
    x = np.c_[dense(table).numpy().astype(np.float64), np.ones(300)]
    largest, mean_square = np.linalg.eigvalsh(x.T @ x / 300)[-1], (x * x).sum() / 300
    for batch_size in (10, 300):
        assert table.curvature(batch_size) - mean_square / batch_size == pytest.approx(largest, rel=0.05)


def test_what_is_generated_is_the_same_each_time_and_differs_by_seed() -> None:
    one, same, other = (read_table(f"generated:50,4,seed={seed}", real=True) for seed in (1, 1, 2))
    assert torch.equal(dense(one), dense(same)) and torch.equal(one.targets, same.targets)
    assert not torch.equal(dense(one), dense(other))
    assert read_table("generated:200,4,classes=5", real=False).targets.unique().tolist() == [0, 1, 2, 3, 4]


BAD = {
    "no pairs": ("1 2\n", "line 1 is not of the form"),
    "no target": ("1 1:2\nx 1:2\n", "line 2 is not of the form"),
    "a column below 0": ("1 -3:2\n0 1:1\n", "less than 0"),
    "nothing": ("# nothing\n\n", "no features"),
    "one class": ("1 1:2\n1 2:1\n", "1 classes"),
    "not finite": ("1 1:nan\n0 2:1\n", "not finite"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_file_that_is_no_table_is_refused_in_one_line(tmp_path: Path, what: str) -> None:
    text, words = BAD[what]
    path = tmp_path / "bad.svm"
    path.write_text(text)
    with pytest.raises(JobError, match=words) as caught:
        read_table(str(path), real=False)
    assert "bad.svm" in str(caught.value) and "\n" not in str(caught.value)


def test_arrays_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "bad.npz")
    csr = {"data": np.ones(3), "indices": np.array([0, 1, 2]), "indptr": np.array([0, 2, 3]), "shape": (2, 3)}
    good = {**csr, "y": np.arange(2)}
    for changes in (
        *({"y": np.arange(3)}, {"indptr": np.array([0, 3, 2])}, {"indptr": np.array([0, 2, 9])}),
        *({"indices": np.array([0, 1, 3])}, {"shape": (3, 3)}, {"data": np.ones(2)}, {"x": np.ones(4)}),
        {"data": np.array([1, np.inf, 2])},
    ):
        np.savez(path, **{**good, **changes})
        with pytest.raises(JobError, match=r"bad\.npz cannot be read"):
            read_table(path, real=True)
    np.savez(path, **good)
    assert len(read_table(path, real=True)) == 2
    for missing in ("nowhere.svm", "nowhere.npz"):
        with pytest.raises(JobError, match=f"{missing} cannot be read"):
            read_table(missing, real=True)
    for wrong in ("generated:0", "generated:5,5,density=2", "generated:many"):
        with pytest.raises(SettingsError, match="generated"):
            read_table(wrong, real=True)
