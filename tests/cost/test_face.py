"""Planning and billing through the names of `lambdaml`, as a user's program meets them."""

from __future__ import annotations

import secrets
from dataclasses import replace
from pathlib import Path

import pytest

import lambdaml
from lambdaml.cost.planning.pilot import PilotRun
from lambdaml.errors import SettingsError
from tests.cost.profiles import digits
from tests.lambdaml import lab

JOB = f"{Path(lab.__file__)}:Tiny"
SPACE = lambdaml.SearchSpace(workers=(2, 2), schedules=("bsp",), codecs=("fp32",), platforms=("local",))


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither this user's prices nor what earlier runs taught."""
    monkeypatch.setenv("LAMBDAML_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LAMBDAML_PRICES", str(tmp_path / "none.toml"))


@pytest.fixture
def profile() -> lambdaml.Profile:
    pilots = tuple(PilotRun(group, 0, 32, 101, (), 500, 1.0) for group in (1, 4))
    return replace(digits(), pilot=pilots, target="accuracy>=0.9")


def test_a_plan_of_a_profile_takes_its_target_and_trains_as_planned(profile: lambdaml.Profile) -> None:
    plan = lambdaml.plan(profile, space=replace(SPACE, channels=("disk",)), processes=1)
    assert isinstance(plan, lambdaml.Plan) and plan.profile is profile
    assert plan.to_dict()["objective"]["target"] == "accuracy>=0.9"
    url = f"memory://{secrets.token_hex(6)}"
    lambdaml.train(JOB, url, steps=4, **(plan.options() | {"target": None, "batch_size": 8}))
    report = lambdaml.report(url)
    assert isinstance(report, lambdaml.RunReport) and report.reason == plan.reason
    assert lambdaml.report(lambdaml.Run(url)).comparisons == report.comparisons


def test_a_plan_of_a_job_measures_it_first(profile: lambdaml.Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, object, int]] = []

    def measure(
        job: str,
        *,
        args: object,
        target: str,
        workers: int,
        algorithms: tuple[str, ...],
        codecs: tuple[str, ...],
        seconds: float,
    ) -> lambdaml.Profile:
        assert (algorithms, codecs) == (("gradient",), SPACE.codecs)
        asked.append((target, args, workers))
        return profile

    monkeypatch.setattr("lambdaml.cost.planning.plan.measure_profile", measure)
    plan = lambdaml.plan(JOB, target="accuracy>=0.9", args={"lr": 0.1}, space=SPACE, processes=1)
    assert asked == [("accuracy>=0.9", {"lr": 0.1}, 2)] and plan.choice is not None
    lambdaml.plan(JOB, epochs=1.0, space=SPACE, processes=1)
    assert asked[1] == (None, None, 2), "epochs need no pilots"


def test_a_run_is_billed_by_its_url_with_prices_of_ones_own(tmp_path: Path) -> None:
    url = f"memory://{secrets.token_hex(6)}"
    lambdaml.train(JOB, url, workers=1, steps=2)
    file = tmp_path / "mine.toml"
    file.write_text('[[price]]\nid = "s3-standard/get"\nusd = 1.0\nunit = "request"\n')
    prices = lambdaml.prices(file)
    assert isinstance(prices, lambdaml.PriceBook) and lambdaml.prices()["s3-standard/get"].usd < 1e-6
    found = lambdaml.bill(url, platform="lambda-arm:1769", channel="s3-standard", prices=prices)
    assert isinstance(found, lambdaml.RunBill) and found.bill.usd > 1


def test_a_budget_is_spent_by_a_tariff_and_a_tariff_of_nothing_is_refused() -> None:
    tariff = lambdaml.Tariff(lambdaml.prices(), "s3-standard", "lambda-arm:1769")
    assert lambdaml.Caps(budget_usd=1.0, deadline_s=60.0, tariff=tariff).tariff is tariff
    with pytest.raises(SettingsError, match="a budget makes no sense"):
        lambdaml.Caps(budget_usd=1.0, tariff=lambdaml.Tariff(lambdaml.prices(), "disk", "local"))
