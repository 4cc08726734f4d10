"""The samples of a job's data set, as partitions ask for them: their classes, fields, and the job's own owners."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lambdaml.errors import JobError, SettingsError
from lambdaml.job import Job
from lambdaml.partitions import OWN, Owners
from lambdaml.training.calls import call, fetch

_AT_ONCE = 1024
"""So many samples are fetched at once if only they themselves tell their classes."""


class DatasetSamples:
    """The samples of a job's data set. They are `lambdaml.partitions.Samples`.

    Classes are what `Job.labels` says of batches. If a job leaves that to its default, the data set's `targets` or
    `labels`, or the last tensor of a `TensorDataset`, are taken, so that no sample needs to be fetched.

    Attributes:
        dataset: The data set that the job has made.
    """

    def __init__(self, job: Job, dataset: Any) -> None:
        self._job, self.dataset = job, dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def labels(self) -> NDArray[np.int64]:
        """Return the class number of each sample.

        Raises:
            JobError: If they have none.
        """
        if type(self._job).labels is Job.labels and (known := self._known_labels()) is not None:
            return known
        found = []
        for start in range(0, len(self), _AT_ONCE):
            numbers = list(range(start, min(start + _AT_ONCE, len(self))))
            labels = call(self._job.labels, call(fetch, self._job, self.dataset, numbers))
            if tuple(labels.shape) != (len(numbers),):
                raise JobError(
                    f"a partition needs one class for each sample: {type(self._job).__name__}.labels(batch) gives "
                    f"{tuple(labels.shape)} for {len(numbers)} samples"
                )
            found.append(labels.cpu().numpy().astype(np.int64))
        return np.concatenate(found)

    def _known_labels(self) -> NDArray[np.int64] | None:
        tensors = getattr(self.dataset, "tensors", None) or ()
        for known in (getattr(self.dataset, "targets", None), getattr(self.dataset, "labels", None), *tensors[-1:]):
            numbers = None if known is None or callable(known) else np.asarray(known)
            if numbers is not None and numbers.shape == (len(self),) and numbers.dtype.kind in "iu":
                return numbers.astype(np.int64)
        return None

    def field(self, name: str) -> NDArray[np.int64]:
        """Return a number for each sample, which rises with the value of this field.

        Raises:
            SettingsError: If the samples have no such field.
        """
        values = getattr(self.dataset, name, None)
        if (values is None or callable(values)) and isinstance(first := call(self.dataset.__getitem__, 0), Mapping):
            values = [call(self.dataset.__getitem__, i)[name] for i in range(len(self))] if name in first else None
        if values is None or callable(values) or np.shape(values) != (len(self),):
            raise SettingsError(
                f"partition 'by:{name}' needs a value for each sample: {type(self._job).__name__}.dataset() has no list "
                f"{name!r} of {len(self)} values, and its items are no mappings with that key"
            )
        return np.unique(np.asarray(values), return_inverse=True)[1].astype(np.int64)

    def owners(self, workers: int) -> Owners:
        """Return the owners that the job's `partition` gives.

        Raises:
            JobError: If they are not a worker's number for each sample.
        """
        owner = type(self._job).__name__
        if not parts_itself(self._job):
            raise JobError(f"partition '{OWN}' needs {owner}.partition(workers), which says who owns each sample")
        found = np.asarray(call(self._job.partition, workers))
        if found.shape != (len(self),) or found.dtype.kind not in "iu":
            raise JobError(
                f"{owner}.partition({workers}) must return {len(self)} whole numbers, one for each sample, not "
                f"{found.dtype} of shape {found.shape}"
            )
        if found.min() < 0 or found.max() >= workers:
            wrong = int(np.flatnonzero((found < 0) | (found >= workers))[0])
            raise JobError(f"{owner}.partition({workers}) gives sample {wrong} to worker {found[wrong]}, which is none")
        return found.astype(np.int64, copy=False)


def parts_itself(job: Job) -> bool:
    """Return whether the job says itself who owns each sample."""
    return type(job).partition is not Job.partition
