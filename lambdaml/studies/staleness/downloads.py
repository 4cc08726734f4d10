"""The paper's own data sets, for readers with internet access: fetched once, kept as arrays and never unpickled."""

from __future__ import annotations

import gzip
import io
import os
import re
import tarfile
import urllib.request
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lambdaml.errors import UserError
from lambdaml.studies.data import Images, standardised
from lambdaml.studies.staleness.factors import Ratings
from lambdaml.studies.staleness.topics import Corpus

_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_CIFAR10 = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
_MOVIELENS = "https://files.grouplens.org/datasets/movielens/ml-1m.zip"
_NEWSGROUPS = "http://qwone.com/~jason/20Newsgroups/20news-bydate.tar.gz"
_MOST_BYTES = 200_000_000
_TIMEOUT_S = 30.0


def folder() -> Path:
    """Return the folder that keeps downloads: `LAMBDAML_DATA`, or else `~/.cache/lambdaml`."""
    return Path(os.environ.get("LAMBDAML_DATA", "~/.cache/lambdaml")).expanduser()


def _fetch(url: str) -> bytes:
    """Return the content of a URL, from the folder if it was fetched before.

    Raises:
        UserError: If it cannot be fetched, or is larger than 200 MB.
    """
    kept = folder() / url.rpartition("/")[2]
    if kept.is_file():
        return kept.read_bytes()
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
            body: bytes = answer.read(_MOST_BYTES + 1)
    except OSError as error:
        raise UserError(f"cannot download {url}: {error}; `--data bundled` needs no download") from None
    if len(body) > _MOST_BYTES:
        raise UserError(f"{url} is larger than {_MOST_BYTES:,} bytes")
    kept.parent.mkdir(parents=True, exist_ok=True)
    part = kept.with_name(f"{kept.name}.{os.getpid()}.part")
    part.write_bytes(body)
    part.replace(kept)
    return body


def mnist() -> Images:
    """Load 60,000 and 10,000 images of 28x28. Raises UserError if they cannot be downloaded."""
    images = [_idx(f"{name}-images-idx3-ubyte.gz", 16).reshape(-1, 784) for name in ("train", "t10k")]
    labels = [_idx(f"{name}-labels-idx1-ubyte.gz", 8) for name in ("train", "t10k")]
    return _standardised(images, labels, (1, 28, 28))


def cifar10() -> Images:
    """Load 50,000 and 10,000 images of 3x32x32 (binary version). Raises UserError if they cannot be downloaded."""
    with tarfile.open(fileobj=io.BytesIO(_fetch(_CIFAR10))) as archive:
        names = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
        records = [_member(archive, f"cifar-10-batches-bin/{name}") for name in names]
    rows = [np.frombuffer(record, np.uint8).reshape(-1, 3073) for record in records]
    parts = [np.concatenate(rows[:5]), rows[5]]
    return _standardised([part[:, 1:] for part in parts], [part[:, 0] for part in parts], (3, 32, 32))


def movielens() -> Ratings:
    """Load a million ratings, less their mean. Raises UserError if they cannot be downloaded."""
    with zipfile.ZipFile(io.BytesIO(_fetch(_MOVIELENS))) as archive:
        text = archive.read("ml-1m/ratings.dat").decode("ascii")
    table = np.array([line.split("::")[:3] for line in text.split()], np.int64)
    numbers = [np.unique(table[:, column], return_inverse=True) for column in (0, 1)]
    values = torch.from_numpy(table[:, 2]).float()
    users, items = (torch.from_numpy(inverse.astype(np.int64)) for _, inverse in numbers)
    return Ratings(users, items, values - values.mean(), (len(numbers[0][0]), len(numbers[1][0])))


def newsgroups(vocabulary: int = 2000, length: int = 60, documents: int = 4000) -> Corpus:
    """Load the first words of many postings; only frequent words count, but not the 50 most frequent ones.

    Raises:
        UserError: If they cannot be downloaded.
    """
    with tarfile.open(fileobj=io.BytesIO(_fetch(_NEWSGROUPS))) as archive:
        bodies = [_member(archive, member.name) for member in archive if member.isfile() and "train/" in member.name]
    postings = [re.findall(r"[a-z]{3,}", body.decode("latin-1").partition("\n\n")[2].lower()) for body in bodies]
    frequent = Counter(word for posting in postings for word in posting).most_common(vocabulary + 50)[50:]
    number = {word: place for place, (word, _) in enumerate(frequent)}
    coded = [[number[word] for word in posting if word in number][:length] for posting in postings]
    whole = [posting for posting in coded if len(posting) == length]
    return Corpus(torch.tensor(whole[:documents]), vocabulary)


def _idx(name: str, header_bytes: int) -> NDArray[np.uint8]:
    return np.frombuffer(gzip.decompress(_fetch(_MNIST + name)), np.uint8, offset=header_bytes)


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None, f"{name} is no file"
    return file.read()


def _standardised(
    images: list[NDArray[np.uint8]], labels: list[NDArray[np.uint8]], shape: tuple[int, int, int]
) -> Images:
    inputs, test_inputs = (torch.from_numpy(part.astype(np.float32)) for part in images)
    numbers: list[Tensor] = [torch.from_numpy(part.astype(np.int64)) for part in labels]
    return standardised(inputs, numbers[0], test_inputs, numbers[1], shape)
