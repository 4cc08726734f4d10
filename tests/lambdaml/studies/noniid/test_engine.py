"""The study's data, its own accuracies, and that settings do not depend on each other."""

from __future__ import annotations

import pytest
import torch

from lambdaml.studies.noniid.algorithms import ALGORITHMS_UNDER_SKEW, LOCAL_STEPS
from lambdaml.studies.noniid.dealing import PARTITIONS_OF_STUDY, TRAINING_SAMPLES, Dealing
from lambdaml.studies.noniid.engine import train_under_skew


def test_partitions_own_all_samples_once_and_two_classes_each_under_full_skew() -> None:
    dealing = Dealing([(0, 0), (40, 1), (100, 0)])
    seen = torch.cat([dealing.batch(number)[1] for number in range(dealing.per_epoch)], 1).unflatten(
        0, (-1, PARTITIONS_OF_STUDY)
    )
    assert seen.shape[1:].numel() == TRAINING_SAMPLES
    counts = [torch.bincount(setting.flatten(), minlength=10) for setting in seen]
    assert all(torch.equal(count, counts[0]) for count in counts)
    iid, _, skewed = dealing.shares().unflatten(0, (-1, PARTITIONS_OF_STUDY))
    assert ((iid > 0.03).sum(1) == 10).all()
    assert (skewed.topk(3, 1).values.sum(1) == 1).all() and (skewed.topk(2, 1).values.sum(1) > 0.9).all()


@pytest.mark.parametrize("algorithm", ALGORITHMS_UNDER_SKEW)
def test_a_setting_is_the_same_alone_and_among_others(algorithm: str) -> None:
    settings = [(100, 1), (0, 1), (100, 0)]
    together = train_under_skew("mlp", "batch", algorithm, settings, LOCAL_STEPS)
    (alone,) = train_under_skew("mlp", "batch", algorithm, settings[:1], LOCAL_STEPS)
    torch.testing.assert_close(together[0].shared, alone.shared, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together[0].statistics, alone.statistics, rtol=1e-4, atol=1e-5)
    assert together[0].traffic == pytest.approx(alone.traffic, rel=1e-3)
    assert not torch.equal(together[0].shared, together[2].shared)


def test_partitions_share_a_model_after_a_round_of_bsp_and_have_their_own_after_one_of_fedavg() -> None:
    (shared,) = train_under_skew("mlp", "none", "bsp", [(100, 0)], 2 * LOCAL_STEPS)
    (own,) = train_under_skew("mlp", "none", "fedavg", [(100, 0)], 2 * LOCAL_STEPS)
    assert set(shared.partitions) == {shared.accuracy} and shared.traffic == 1.0
    assert max(own.partitions) < min(own.home), "under full skew a partition's own model knows its own classes best"
    assert own.traffic == 1 / LOCAL_STEPS
