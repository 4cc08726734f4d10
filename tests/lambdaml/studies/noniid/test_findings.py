"""The paper's finding on the digits: fixed seeds, with room between what is found and asked."""

from __future__ import annotations

from statistics import fmean

import pytest

from lambdaml.studies.noniid.engine import train_under_skew

SEEDS = (0, 1, 2)


@pytest.mark.parametrize(("norm", "least", "most"), [("batch", 8.0, 100.0), ("group", -1.5, 1.5)])
def test_full_skew_costs_batch_normalisation_8_points_and_group_normalisation_1_5(
    norm: str, least: float, most: float
) -> None:
    """Check F3 after half of the default study: bsp, two hidden layers, five partitions of two digits each."""
    courses = train_under_skew("mlp", norm, "bsp", [(skew, seed) for skew in (0, 100) for seed in SEEDS], 400)
    iid, skewed = (100 * fmean(course.accuracy for course in part) for part in (courses[:3], courses[3:]))
    assert least <= iid - skewed <= most
