"""By field: samples with the same value of a field, such as the same writer or the same site, have the same owner."""

from __future__ import annotations

import numpy as np

from lambdaml.errors import SettingsError
from lambdaml.partitions import Owners, Samples


class ByField:
    """Deals the values of a field, in rising order, to the workers in turn: value v to worker v mod N.

    Args:
        field: The name of the field.
    """

    lasting = True

    def __init__(self, field: str) -> None:
        self._field = field

    def owners(self, samples: Samples, workers: int, random: np.random.RandomState) -> Owners:
        numbers = samples.field(self._field)
        values = int(numbers.max()) + 1
        if values < workers:
            raise SettingsError(
                f"partition 'by:{self._field}' leaves {workers - values} of {workers} workers without samples, because "
                f"{self._field} has {values} values: take {values} workers or fewer"
            )
        return numbers % workers
