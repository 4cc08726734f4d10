"""Plans whose functions are in several regions."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lambdaml.cost.billing.prices import PriceBook
from lambdaml.cost.billing.tariff import GB_BYTES
from lambdaml.cost.planning.command import how_to_run
from lambdaml.cost.planning.objective import Objective
from lambdaml.cost.planning.plan import Plan, make_plan, with_alternatives
from lambdaml.cost.planning.step_cost import simulate_step_cost
from lambdaml.errors import SettingsError
from lambdaml.simulation.regions import Placement, round_trip_s
from lambdaml.simulation.stub_replica import HEADER_BYTES, Costs
from tests.cost.planning.test_plan import PILOTS, SMALL, TARGET, shape
from tests.cost.profiles import digits

REGIONS = "us-east-1:3,sa-east-1:1"
AWAY, BACK = "us-east-1 to sa-east-1", "sa-east-1 to us-east-1"
SPACE = replace(SMALL, workers=(4, 4), schedules=("bsp", "asp"), platforms=("lambda-arm:1769",))


@pytest.fixture(scope="module")
def plan() -> Plan:
    profile = replace(digits(), target=TARGET, pilot=PILOTS)
    return make_plan(profile, Objective(TARGET, space=SPACE, regions=REGIONS), processes=1)


@pytest.mark.parametrize("schedule", ["bsp", "asp", "quorum:3"])
def test_requests_one_by_one_and_in_closed_form_tell_the_same(schedule: str) -> None:
    closed = simulate_step_cost(shape(schedule))
    exact = simulate_step_cost(shape(schedule, placement=Placement.parse(4, "eu-west-1:4")))
    assert exact.step.seconds == pytest.approx(closed.step.seconds, rel=0.1)
    assert sum(exact.step.requests.values()) == pytest.approx(sum(closed.step.requests.values()), rel=0.15)
    assert exact.step.received_bytes == pytest.approx(closed.step.received_bytes, rel=0.1)
    assert (exact.group, exact.staleness) == pytest.approx((closed.group, closed.staleness), rel=0.15)


def test_a_step_waits_for_the_far_function_and_moves_its_bytes() -> None:
    costs = Costs(0.05, update_bytes=1_000_000)
    near, far = (
        simulate_step_cost(shape(costs=costs, placement=Placement.parse(4, regions)))
        for regions in ("us-east-1:4", REGIONS)
    )
    per_s = 2**20 / round_trip_s("us-east-1", "sa-east-1")
    least_s = 0.05 + 1e6 / per_s + 0.005 / 2 + 0.115 / 2  # the far update until others can read it
    assert near.step.seconds < 0.1 and least_s < far.step.seconds < 2 * least_s
    size = 1_000_000 + HEADER_BYTES
    assert far.step.moved == pytest.approx(
        {("us-east-1", "sa-east-1"): 3 * size, ("sa-east-1", "us-east-1"): size}, rel=0.01
    )
    assert not near.step.moved


def test_a_plan_pays_for_what_crosses_regions(plan: Plan) -> None:
    book, best = PriceBook.load(), plan.choice
    assert best is not None
    bsp = next(one for one in plan.candidates if one.candidate.schedule == "bsp")
    assert set(bsp.transfer_usd) == {AWAY, BACK}
    assert all(usd >= 0 for one in plan.candidates for usd in one.transfer_usd.values())
    assert bsp.parts_usd["transfer"] == pytest.approx(sum(bsp.transfer_usd.values()))
    size = plan.profile.codecs["fp32"].update_bytes + HEADER_BYTES
    usd = bsp.steps * 3 * size / GB_BYTES * book["us-east-1/cross-region"].usd
    assert bsp.transfer_usd[AWAY] == pytest.approx(usd, rel=0.25), "and snapshots, and log entries"
    assert bsp.to_dict()["transfer_usd"] == bsp.transfer_usd
    assert bsp.shortened(0.5).transfer_usd[AWAY] < bsp.transfer_usd[AWAY]
    assert {row.what: row.mark for row in plan.assumptions if "region" in row.what or "sa-east-1" in row.what} == {
        "functions in regions": "given",
        "region of the only bucket": "given",
        "round trip between sa-east-1 and us-east-1": "assumed",
        "bandwidth of a connection between sa-east-1 and us-east-1": "assumed",
        "price, transfer/same-region": "given",
        "price, us-east-1/cross-region": "given",
        "price, sa-east-1/cross-region": "given",
    }
    assert any("no engine starts them in several" in remark for remark in how_to_run(plan).remarks)


def test_a_machine_of_ones_own_is_in_no_region(plan: Plan) -> None:
    found = with_alternatives(plan, PriceBook.load(), None).elsewhere
    assert found and "local" not in [one.platform.name for one in found]


def test_without_regions_a_plan_says_nothing_of_them() -> None:
    found = make_plan(replace(digits(), target=TARGET, pilot=PILOTS), Objective(TARGET, space=SPACE), processes=1)
    assert all("transfer_usd" not in one.to_dict() for one in found.candidates)
    assert not any("region of" in row.what for row in found.assumptions)


def test_regions_of_other_functions_than_the_candidates() -> None:
    profile = replace(digits(), target=TARGET, pilot=PILOTS)
    with pytest.raises(SettingsError, match="have 3 functions, but the run has 4"):
        make_plan(profile, Objective(TARGET, space=SPACE, regions="us-east-1:3"), processes=1)
