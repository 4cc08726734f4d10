"""Profiles of jobs that have statistics and no gradient."""

from __future__ import annotations

from pathlib import Path

import pytest

import lambdaml
from lambdaml import Profile, SearchSpace
from lambdaml.errors import SettingsError
from lambdaml.jobs import KMeans
from tests.lambdaml.lab import ClassMeans, Tiny


def test_a_profile_has_times_and_pilots_and_no_noise_of_gradients(tmp_path: Path) -> None:
    found = lambdaml.profile(
        ClassMeans, args={"rate": 1.0}, algorithms=("statistics",), target="accuracy>=0.8", workers=2, seconds=0.5
    )
    assert found.step_time.step_s(8) > 0 and set(found.codecs) == {"fp32"}
    assert (found.job.algorithm, found.noise, found.coherence, found.update_norm) == ("statistics", None, None, 0.0)
    assert {run.group for run in found.pilot if run.steps == 1} == {1, 2}
    found.dump(tmp_path / "profile.json")
    read = Profile.load(tmp_path / "profile.json")
    assert read.costs(algorithm="statistics").step_s == found.costs(algorithm="statistics").step_s
    with pytest.raises(SettingsError, match="the profile is of a job without gradients.*simulate 'statistics'"):
        lambdaml.plan(read, epochs=1)


def test_profiles_of_the_other_kind_of_job_are_refused() -> None:
    with pytest.raises(SettingsError, match="KMeans has none: give --algorithm statistics"):
        lambdaml.profile(KMeans, seconds=0.1)
    with pytest.raises(SettingsError, match="needs a lambdaml.StatisticsJob, and Tiny is none"):
        lambdaml.profile(Tiny, algorithms=("gradient", "statistics"), seconds=0.1)


def test_statistics_are_not_planned() -> None:
    with pytest.raises(SettingsError, match="'statistics' cannot be planned.*simulate it"):
        _ = SearchSpace(algorithms=("gradient", "statistics")).algorithm_names
