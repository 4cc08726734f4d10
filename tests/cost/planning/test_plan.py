"""Plans: all candidates, the frontier, the choice, and objectives that cannot be met."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

import lambdaml
from lambdaml.cost.billing.prices import PriceBook
from lambdaml.cost.billing.tariff import Tariff
from lambdaml.cost.planning.candidates import Candidate, SearchSpace
from lambdaml.cost.planning.estimate import StopCriterion, estimate
from lambdaml.cost.planning.explain import idleness
from lambdaml.cost.planning.objective import Objective
from lambdaml.cost.planning.page import plan_page
from lambdaml.cost.planning.pilot import PilotRun
from lambdaml.cost.planning.plan import Plan, make_plan
from lambdaml.cost.planning.planner import Planner
from lambdaml.cost.planning.step_cost import Shape, simulate_step_cost
from lambdaml.cost.profiling.profile import Profile
from lambdaml.errors import SettingsError, UserError
from lambdaml.schedules import SCHEDULES
from lambdaml.simulation import simulate
from lambdaml.simulation.channel import Channel
from lambdaml.simulation.platform import Platform
from lambdaml.simulation.stragglers import STRAGGLERS
from lambdaml.simulation.stub_replica import Costs
from tests.cost.profiles import digits
from tests.lambdaml.lab import Tiny, memory

TARGET = "accuracy>=0.95"
PILOTS = tuple(
    PilotRun(group, delay, 32, seed, (), steps, 0.1)
    for group, delay, steps in ((1, 0, 100), (4, 0, 60), (8, 0, 50), (1, 1, 105), (1, 3, 130), (1, 7, None))
    for seed in (1, 2)
)
NESTEROV = "local:20,outer=nesterov"
LOCAL = tuple(PilotRun(group, 0, 32, 1, (), steps, 0.1, NESTEROV) for group, steps in ((1, 6), (4, 4)))
"""Pilots with local steps, whose rounds cover about as many samples as the others."""

SMALL = SearchSpace(
    workers=(1, 4),
    schedules=("bsp", "asp", "ssp:1"),
    batch_sizes=(32,),
    codecs=("fp32",),
    channels=("s3-standard",),
)


@pytest.fixture(scope="module")
def profile() -> Profile:
    return replace(digits(), target=TARGET, pilot=PILOTS)


@pytest.fixture(scope="module")
def plan(profile: Profile) -> Plan:
    return make_plan(profile, Objective(target=TARGET, space=SMALL), processes=1)


def shape(schedule: str = "bsp", workers: int = 4, **changes: object) -> Shape:
    made = Shape(
        schedule,
        workers,
        32,
        10_000,
        Costs(0.05),
        Channel.parse("5ms"),
        Platform.parse("local"),
        STRAGGLERS.make("none"),
        workers,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("schedule", ["bsp", "asp", "quorum:3"])
def test_the_cost_of_a_step_foretells_a_longer_run(schedule: str) -> None:
    """Twice as long as what it was taken from, simulated request by request."""
    found = simulate_step_cost(shape(schedule))
    steps = 2 * found.steps
    options = (
        {"updates": steps * 4} if schedule == "bsp" else {"updates": steps} if schedule == "asp" else {"steps": steps}
    )
    real = simulate(
        workers=4,
        schedule=schedule,
        channel="5ms",
        platform="local",
        costs=Costs(0.05),
        snapshot_every=10**6,
        **options,
    )
    guess = found.of(real.run.version)
    assert guess.seconds == pytest.approx(real.run.seconds, rel=0.08)
    assert sum(guess.requests.values()) == pytest.approx(sum(real.run.requests.values()), rel=0.08)
    assert found.staleness == pytest.approx(real.run.staleness.mean, rel=0.15, abs=0.1)


def test_staleness_is_as_hard_as_it_varies() -> None:
    """Scattered delays count for less than their mean, bursts behind a slow worker for more."""
    none = simulate_step_cost(shape("bsp"))
    assert none.staleness == none.effective == 0.0
    scattered = simulate_step_cost(shape("asp", 8, stragglers=STRAGGLERS.make("lognormal:0.5")), updates=512)
    assert 0.7 * scattered.staleness < scattered.effective < 0.95 * scattered.staleness
    bursts = simulate_step_cost(shape("ssp:3", 8, stragglers=STRAGGLERS.make("slow:7,4")), updates=512)
    assert bursts.effective > 1.3 * bursts.staleness


def test_a_plan_knows_when_snapshots_are_looked_at(profile: Profile) -> None:
    space = replace(SMALL, workers=(4, 4), schedules=("bsp",))
    steps = [
        make_plan(profile, Objective(TARGET, space=space, snapshot_every=every), processes=1).candidates[0].steps
        for every in (1, 50, 64)
    ]
    assert 50 < steps[0] < 64
    assert steps[1:] == [100, 64]


def test_the_frontier_is_what_nobody_beats(plan: Plan) -> None:
    found = [one for one in plan.candidates if not one.obstacle]
    best = [
        one
        for one in found
        if not any(
            o.seconds <= one.seconds and o.usd <= one.usd and (o.seconds, o.usd) != (one.seconds, one.usd)
            for o in found
        )
    ]
    assert {str(plan.candidates[place].candidate) for place in plan.frontier} == {str(one.candidate) for one in best}


def test_the_choice_is_the_least_of_what_is_minimised(profile: Profile) -> None:
    by = {
        aim: make_plan(profile, Objective(TARGET, minimise=aim, space=SMALL), processes=1) for aim in ("time", "cost")
    }  # type: ignore[arg-type]
    fastest, cheapest = by["time"].choice, by["cost"].choice
    assert fastest is not None and cheapest is not None
    usable = [one for one in by["time"].candidates if not one.obstacle]
    assert fastest.seconds == min(one.seconds for one in usable)
    assert cheapest.usd == min(one.usd for one in by["cost"].candidates)


def test_staleness_that_pilots_did_not_stand_is_an_obstacle(profile: Profile) -> None:
    space = replace(SMALL, workers=(8, 8), schedules=("asp", "bsp"))
    found = make_plan(profile, Objective(TARGET, space=space), processes=1)
    asp = next(one for one in found.candidates if one.candidate.schedule == "asp")
    assert "staleness" in asp.obstacle and found.choice is not None and found.choice.candidate.schedule == "bsp"


@pytest.mark.parametrize("limit", [{"deadline_s": 1.0}, {"budget_usd": 1e-9}])
def test_an_impossible_objective_gets_the_nearest_plan_and_the_reason(
    profile: Profile, limit: dict[str, float]
) -> None:
    found = make_plan(profile, Objective(TARGET, space=SMALL, **limit), processes=1)  # type: ignore[arg-type]
    assert found.chosen is None and found.nearest is not None and "nearest" in found.reason
    with pytest.raises(UserError, match="no candidate"):
        found.options()


def test_a_schedule_whose_rounds_overlap_is_refused_before_anything_is_measured() -> None:
    with pytest.raises(UserError, match="'pipeline:1' cannot be planned, because its rounds overlap"):
        SearchSpace(schedules=("bsp", "pipeline:1"))
    assert SearchSpace(schedules=("pipeline:0",))


def test_every_schedule_is_a_candidate(profile: Profile) -> None:
    names = {one.schedule.partition(":")[0] for one in SearchSpace(workers=(2, 4)).candidates(profile)}
    assert names == set(SCHEDULES.factories) - {"pipeline", "cohort", "groups"}, (
        "no simulation in closed form; a run of its own"
    )


def test_memory_is_enough_for_what_was_measured_and_for_the_updates_of_all_workers(profile: Profile) -> None:
    large = replace(profile, memory=replace(profile.memory, base_mb=2_500.0))
    sizes = {one.workers: one.platform.memory_mb for one in SearchSpace().candidates(large)}
    assert sizes[1] == 2880
    assert sizes[max(sizes)] >= 1.15 * (2_500.0 + 64 * max(sizes) * 38_440 / 2**20) > 2880


def test_lifetimes_and_preemptions_cost_time_and_invocations(profile: Profile) -> None:
    criterion, book = StopCriterion(None, epochs=400.0), PriceBook.load()
    found = {}
    for name, platform in (
        ("never", "local"),
        ("often", "local:lifetime_s=120"),
        ("spot", "local:preemption_mean_s=600"),
    ):
        channel = Channel.parse("s3-standard")
        candidate = Candidate("bsp", 4, 32, "fp32", channel, Platform.parse(platform))
        tariff = Tariff(book, "s3-standard", "lambda-arm:1769")
        step_cost = simulate_step_cost(shape(channel=channel, costs=profile.costs()))
        found[name] = estimate(candidate, step_cost, profile, criterion, tariff)
    assert found["often"].invocations > found["never"].invocations == 4
    assert found["often"].seconds > found["never"].seconds < found["spot"].seconds


def test_rounds_of_minutes_are_handed_over_in_closed_form_alone(profile: Profile) -> None:
    long = replace(profile, step_time=replace(profile.step_time, overhead_s=200.0))
    space = replace(SMALL, workers=(2, 2), schedules=("bsp",), platforms=("lambda-arm:1769", "local"), functions=2)
    planner = Planner(long, Objective(TARGET, space=space), PriceBook.load(), None, 1)
    short, endless = planner.estimates(space.candidates(long), lambda share: None)
    assert short.step_s == pytest.approx(endless.step_s, rel=1e-3) and short.step_s > 200
    assert endless.invocations == 2 and short.invocations == pytest.approx(2 * short.seconds / 900, rel=0.05)
    assert endless.seconds < short.seconds < 1.05 * endless.seconds


def test_a_plan_is_json_and_a_page(plan: Plan) -> None:
    record = json.loads(json.dumps(plan.to_dict(), allow_nan=False))
    assert {"candidates", "frontier", "chosen", "assumptions"} <= set(record)
    assert {row["mark"] for row in record["assumptions"]} <= {"measured", "given", "assumed"}
    text = plan_page(plan, "A <plan>")
    data = json.loads(text.split('id="charts">')[1].split("</script>")[0])
    assert "A &lt;plan&gt;" in text
    assert len(data["candidates"]["rows"]) == sum(not one.obstacle for one in plan.candidates)
    assert text.count("<tr") > len(plan.candidates)
    assert "http" not in text.split("<script")[0].split("<table")[0]


def test_the_choice_becomes_a_run(plan: Plan) -> None:
    options = plan.options()
    assert options["planned"]["seconds"] > 0 and options["planned"]["reason"] == plan.reason
    assert {"schedule", "workers", "batch_size", "codec", "target"} < set(options)


def test_a_plan_needs_pilots_to_its_target(profile: Profile) -> None:
    with pytest.raises(SettingsError, match="not to 'loss<=1'"):
        make_plan(profile, Objective("loss<=1"))
    with pytest.raises(SettingsError, match="no pilots"):
        make_plan(replace(profile, pilot=()), Objective(TARGET))
    with pytest.raises(SettingsError, match="target"):
        make_plan(profile, Objective())


def test_epochs_need_no_pilots(profile: Profile) -> None:
    found = make_plan(replace(profile, pilot=()), Objective(epochs=3.0, space=SMALL), processes=1)
    best = found.choice
    assert best is not None and math.isclose(best.steps * best.group * 32, 3 * 1437, rel_tol=0.1)


@pytest.mark.parametrize("schedule", ["bsp", "asp", "quorum:2"])
def test_epochs_are_as_many_steps_as_a_run_takes(profile: Profile, schedule: str) -> None:
    """`steps` of a quorum are its commits, of other schedules the updates of each worker."""
    space = replace(SMALL, workers=(4, 4), schedules=(schedule,))
    found = make_plan(profile, Objective(epochs=3.0, space=space), processes=1).candidates[0]
    per_epoch = math.ceil(profile.job.samples / 4 / found.candidate.batch_size)
    assert found.steps == 3 * per_epoch * (4 if schedule == "asp" else 1)


@pytest.mark.parametrize("asked", [None, 1, 3])
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_a_plan_for_this_machine_has_the_functions_that_train_starts(
    profile: Profile, asked: int | None, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lambdaml.engines.cores", lambda: 2)
    space = replace(SMALL, workers=(workers, workers), schedules=("bsp",), platforms=("local",), functions=asked)
    (found,) = make_plan(profile, Objective(TARGET, space=space), processes=1).candidates
    events: list[dict[str, object]] = []
    options = {"workers": workers, "functions": asked, "steps": 1, "engine": "inline"}
    lambdaml.train(Tiny, memory(), on_event=events.append, **options)  # type: ignore[arg-type]
    started = next(event.functions for event in events if event.event == "run")
    assert found.functions == started == found.invocations == min(workers, asked or 2)


def test_fewer_functions_ask_less_of_the_store(profile: Profile) -> None:
    space = replace(SMALL, workers=(4, 4), schedules=("bsp",), platforms=("local",))
    shared, alone = (
        make_plan(profile, Objective(TARGET, space=replace(space, functions=count)), processes=1).candidates[0]
        for count in (2, 4)
    )
    assert shared.requests < 0.75 * alone.requests
    assert shared.steps == alone.steps and shared.function_seconds < alone.function_seconds


def test_where_nothing_is_said_functions_use_the_store_that_they_can_reach(profile: Profile) -> None:
    assert profile.store is not None
    remote, none = profile, replace(profile, store=None)
    near = replace(profile, store=replace(profile.store, url="file:///there"))
    found = {
        (name, platform): {one.channel.name for one in SearchSpace(platforms=(platform,)).candidates(known)}
        for name, known in (("remote", remote), ("near", near), ("none", none))
        for platform in ("local", "lambda-arm")
    }
    assert found["remote", "local"] == found["remote", "lambda-arm"] == found["near", "local"] == {"measured"}
    assert found["none", "local"] == {"disk"}
    assert found["near", "lambda-arm"] == found["none", "lambda-arm"] == {"s3-standard"}


def test_a_measured_bucket_costs_what_its_store_costs(profile: Profile) -> None:
    space = replace(SMALL, workers=(2, 2), schedules=("bsp",), channels=("measured",))
    bucket = make_plan(profile, Objective(TARGET, space=space), processes=1)
    assert bucket.candidates[0].parts_usd["requests"] > 0
    assert any(row.what == "price, s3-standard/put" for row in bucket.assumptions)


# ---- Algorithms.


def test_local_steps_need_fewer_requests_and_bytes_for_as_many_samples(profile: Profile) -> None:
    space = replace(
        SMALL, workers=(4, 4), schedules=("bsp",), platforms=("local",), algorithms=("gradient", "local:20")
    )
    found = make_plan(profile, Objective(epochs=200.0, space=space), processes=1)
    plain, local = sorted(found.candidates, key=lambda one: one.candidate.algorithm)
    assert local.steps == math.ceil(plain.steps / 20)
    assert local.requests < plain.requests / 8, "the start and the snapshots are as they were"
    assert local.bytes_sent < plain.bytes_sent / 8
    work_s = profile.step_time.step_s(32) + profile.optimizer_s
    assert local.step_s > 20 * work_s and local.seconds < plain.seconds
    assert found.choice is not None and found.options()["algorithm"] == "local:20"
    assert found.options()["planned"]["algorithm"] == "local:20"
    record = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert [row.get("algorithm") for row in record["candidates"]] == ["local:20", None]
    assert any(sentence.startswith("algorithm gradient: ") for sentence in found.explanations)
    assert "bsp, local:20</td>" in plan_page(found, "A plan")


def test_each_algorithm_has_the_steps_of_its_own_pilots(profile: Profile) -> None:
    space = replace(SMALL, workers=(4, 4), platforms=("local",), algorithms=("gradient", NESTEROV))
    known = replace(profile, pilot=(*PILOTS, *LOCAL))
    objective = Objective(TARGET, space=space, snapshot_every=1)
    found = {(one.candidate.schedule, one.candidate.algorithm): one for one in make_plan(known, objective).candidates}
    assert found["bsp", NESTEROV].steps in (4, 5) and 50 < found["bsp", "gradient"].steps < 70
    assert "more than pilots tried" in found["asp", NESTEROV].obstacle
    with pytest.raises(SettingsError, match=f"no pilots of {NESTEROV}: run .* --algorithm {NESTEROV}"):
        make_plan(profile, objective)


def test_a_plan_says_nothing_of_algorithms_that_nobody_asked_for(plan: Plan) -> None:
    assert "algorithm" not in json.dumps(plan.to_dict(), allow_nan=False)
    assert "algorithm" not in plan.options()


def test_steps_that_clocks_decide_are_not_planned(profile: Profile) -> None:
    with pytest.raises(SettingsError, match="local:auto.*clocks"):
        SearchSpace(algorithms=("local:auto",)).candidates(profile)


def test_more_local_steps_than_a_run_has_are_an_obstacle(profile: Profile) -> None:
    space = replace(SMALL, workers=(4, 4), schedules=("bsp",), platforms=("local",), algorithms=("local:500",))
    (found,) = make_plan(profile, Objective(epochs=1.0, space=space), processes=1).candidates
    assert found.obstacle.startswith("500 local steps")


def test_what_workers_remember_is_paid_for(profile: Profile) -> None:
    """Each writes a memory of its inner optimizer for every 30 s of compute, and one when its function must leave."""
    criterion, tariff = StopCriterion(None, epochs=20_000.0), Tariff(PriceBook.load(), "s3-standard", "lambda-arm:1769")
    channel = Channel.parse("s3-standard")
    step_cost = simulate_step_cost(shape(channel=channel, costs=profile.costs()))
    found = {}
    for platform in ("local", "local:lifetime_s=600"):
        for inner in ("keep", "anew"):
            algorithm = f"local:20,inner={inner}"
            candidate = Candidate("bsp", 4, 32, "fp32", channel, Platform.parse(platform), algorithm)
            found[platform, inner] = estimate(candidate, step_cost, profile, criterion, tariff)
    kept, anew = found["local", "keep"], found["local", "anew"]
    work_s = 20 * (profile.step_time.step_s(32) + profile.optimizer_s) + profile.codecs["fp32"].encode_s
    expected = 4 * kept.steps / (1 + 30 // work_s)
    assert expected > 20 and kept.requests - anew.requests == pytest.approx(expected, abs=2)
    size = profile.costs(algorithm="local:20,inner=keep").memory_bytes
    assert size == profile.job.snapshot_bytes - profile.job.model_bytes
    assert kept.bytes_sent - anew.bytes_sent == pytest.approx(expected * size, rel=0.1)
    leaving, plain = found["local:lifetime_s=600", "keep"], found["local:lifetime_s=600", "anew"]
    moved = leaving.invocations - 4
    assert moved > 8 and leaving.requests - plain.requests == pytest.approx(expected + 2 * moved, abs=4)


def test_fragments_are_planned_in_rounds_and_cost_more_requests_for_the_same_bytes(profile: Profile) -> None:
    algorithms = ("local:20", "local:20,fragments=4")
    space = replace(SMALL, workers=(4, 4), platforms=("local",), algorithms=algorithms, schedules=("bsp", "asp"))
    found = make_plan(profile, Objective(epochs=2_000.0, space=space), processes=1).candidates
    shared = [one.candidate for one in found if one.candidate.algorithm == algorithms[1]]
    assert {one.schedule for one in shared} == {"bsp"}
    plain, split = (
        next(one for one in found if (one.candidate.algorithm, one.candidate.schedule) == (algorithm, "bsp"))
        for algorithm in algorithms
    )
    assert split.steps == pytest.approx(4 * plain.steps, rel=0.01)
    assert plain.bytes_sent < split.bytes_sent < 1.3 * plain.bytes_sent, "more headers, log entries and memories"
    assert split.requests > 3 * plain.requests
    with pytest.raises(SettingsError, match=r"'asp' has no rounds"):
        make_plan(profile, Objective(epochs=2.0, space=replace(space, schedules=("asp",))), processes=1)


def test_memory_is_enough_for_local_steps_and_what_they_remember(profile: Profile) -> None:
    plain = profile.function_mb(32, 4)
    mb = 2**20
    vector, inner = 38_440, profile.job.snapshot_bytes - profile.job.model_bytes
    local = vector + inner
    assert (profile.function_mb(32, 4, "local:20") - plain) * mb == pytest.approx(local)
    side = 2 * vector + vector + local  # a replica with the state of outer momentum
    assert (profile.function_mb(32, 4, NESTEROV, 2) - plain) * mb == pytest.approx(local + side + 2 * inner)


def test_what_functions_wait_for_is_what_they_do_not_compute(plan: Plan, profile: Profile) -> None:
    bsp = [each for each in plan.candidates if each.candidate.schedule == "bsp" and not each.obstacle]
    for found in bsp:
        workers, costs = found.candidate.workers, profile.costs(32, "fp32")
        each_s = costs.step_s + costs.encode_s + costs.apply_s + workers * costs.apply_update_s
        computed_s = workers * found.steps * each_s / found.candidate.platform.speed()
        assert found.idle_s == pytest.approx(found.function_seconds - computed_s)
        assert 0 < found.idle_s < found.function_seconds
    assert "store and each other" in idleness(bsp[0])
    assert bsp[0].shortened(0.5).idle_s < bsp[0].idle_s
