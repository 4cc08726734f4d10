"""The mean of a run's models along its trajectory."""

from __future__ import annotations

import pytest
import torch

from lambdaml.errors import SettingsError
from tests.lambdaml.lab import train


@pytest.mark.parametrize("schedule", ["bsp", "groups:2,every=3"])
def test_the_mean_of_a_trajectory_is_that_of_its_snapshots(schedule: str) -> None:
    run = train(workers=4, steps=12, schedule=schedule, snapshot_every=3)
    found = run.averaged(since=6).state_dict()
    models = [run.model(version).state_dict() for version in (6, 9, 12)]
    for name, tensor in found.items():
        mean = torch.stack([model[name].double() for model in models]).mean(0)
        torch.testing.assert_close(tensor, mean.float(), rtol=0, atol=1e-7)
    assert not torch.equal(found["weight"], models[-1]["weight"])


def test_the_mean_of_one_snapshot_is_its_model() -> None:
    run = train(workers=2, steps=4, snapshot_every=2)
    assert torch.equal(run.averaged(since=4).state_dict()["weight"], run.model().state_dict()["weight"])
    with pytest.raises(SettingsError, match="version 5 or later"):
        run.averaged(since=5)
