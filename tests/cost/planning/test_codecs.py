"""Codecs in plans: which are proposed, how many steps they need, and where those with error feedback begin to win."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace

import pytest

from lambdaml.cost.billing.prices import PriceBook
from lambdaml.cost.planning.candidates import SearchSpace
from lambdaml.cost.planning.choice import ranked
from lambdaml.cost.planning.codec_choice import left_out
from lambdaml.cost.planning.crossover import Crossover, Turn
from lambdaml.cost.planning.estimate import Estimate
from lambdaml.cost.planning.objective import Aim, Objective
from lambdaml.cost.planning.page import plan_page
from lambdaml.cost.planning.plan import Plan, make_plan, with_crossover
from lambdaml.cost.planning.planner import Planner
from lambdaml.cost.profiling.profile import Profile
from lambdaml.errors import SettingsError, UserError
from tests.cost.profiles import PLAN_TARGET, coded, digits

BOOK = PriceBook.load()
SPACE = SearchSpace(workers=(4, 4), schedules=("bsp",), batch_sizes=(32,), channels=("40ms:bandwidth=85MB/s",))
HERE = replace(SPACE, platforms=("local",), functions=4)


def objective(minimise: Aim = "time", space: SearchSpace = HERE) -> Objective:
    return Objective(PLAN_TARGET, minimise=minimise, space=space, snapshot_every=1)


def estimates(profile: Profile, wanted: Objective | None = None, *, longer: bool = False) -> list[Estimate]:
    """The estimates of all candidates, the best first; `longer` as those of a plan's best ones."""
    wanted = wanted or objective()
    planner = Planner(profile, wanted, BOOK, None, 1)
    candidates = wanted.space.candidates(profile, to_target=wanted.epochs is None)
    found = planner.refined(candidates, 1) if longer else planner.estimates(candidates, lambda share: None)
    return ranked(found, wanted)


def best(profile: Profile, wanted: Objective | None = None, *, longer: bool = False) -> str:
    first = estimates(profile, wanted, longer=longer)[0]
    assert not first.obstacle
    return first.candidate.codec


def grown(profile: Profile, times: float) -> Profile:
    """With larger updates, of which each number takes as long."""
    return replace(profile, codecs={name: facts.grown(times) for name, facts in profile.codecs.items()})


LARGE = grown(coded(), 300.0)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return with_crossover(make_plan(LARGE, objective(), BOOK, processes=1), BOOK, None)


def test_a_codec_with_error_feedback_is_proposed_where_its_pilots_reached_the_target() -> None:
    space = SearchSpace(workers=(4, 4), batch_sizes=(32,))
    found = {(one.codec, one.schedule) for one in space.candidates(coded())}
    assert {codec for codec, _ in found} == {"fp32", "bf16", "topk:0.01"}
    assert {schedule for codec, schedule in found if codec == "topk:0.01"} == {"bsp"}, "its pilots were synchronous"
    assert {schedule for codec, schedule in found if codec == "bf16"} > {"bsp", "asp"}


def test_the_plan_says_in_a_line_each_why_the_others_are_not_proposed(plan: Plan) -> None:
    assert [line for line in plan.explanations if "not proposed" in line] == [
        "topk:0.001 with gradient: not proposed, since pilots learnt more than 3 times as slowly as with fp32",
        "randomk:0.01 with gradient: not proposed, since there was no time for pilots",
    ]


def digits_with_pilots() -> Profile:
    """As an earlier version made it."""
    known = coded()
    pilot = tuple(run for run in known.pilot if run.codec == "fp32")
    return replace(known, codecs=digits().codecs, pilot=pilot)


def test_steps_are_those_of_plain_updates_times_the_factor_of_the_pilots() -> None:
    steps = {one.candidate.codec: one.steps for one in estimates(coded())}
    assert steps["fp32"] == steps["bf16"] and 60 <= steps["fp32"] < 64
    assert steps["topk:0.01"] / steps["fp32"] == pytest.approx(2.0, abs=0.05)


def test_assumptions_tell_measured_factors_from_assumed_convergence(plan: Plan) -> None:
    rows = {row.what: row for row in plan.assumptions}
    assert (rows["steps with topk:0.01"].value, rows["steps with topk:0.01"].mark) == ("2.00", "measured")
    assert (rows["convergence with bf16"].value, rows["convergence with bf16"].mark) == ("that of fp32", "assumed")
    assert rows["memory of a worker, topk:0.01"].value == 300 * (38_440 + 768)
    assert not any("fp32" in what or "randomk" in what for what in rows if what.startswith(("steps with", "update, r")))


def test_a_codec_that_is_asked_for_needs_pilots_and_what_they_missed_is_an_obstacle() -> None:
    with pytest.raises(SettingsError, match=r"no pilots of randomk:0.01 with gradient: .* --codec randomk:0.01"):
        estimates(coded(), objective(space=replace(HERE, codecs=("randomk:0.01",))))
    with pytest.raises(UserError, match="the profile has no codec 'topk:0.02'"):
        SearchSpace(codecs=("topk:0.02",)).candidates(coded())
    with pytest.raises(SettingsError, match="codec 'significant:0.01' needs displacements"):
        SearchSpace(codecs=("significant:0.01",)).candidates(coded())
    (missed,) = estimates(coded(), objective(space=replace(HERE, codecs=("topk:0.001",))))
    assert missed.obstacle == "pilots with topk:0.001 did not reach the target"
    (stale,) = estimates(coded(), objective(space=replace(HERE, codecs=("topk:0.01",), schedules=("asp",))))
    assert stale.obstacle == "stale updates: pilots with topk:0.01 were synchronous"


def test_for_a_number_of_epochs_error_feedback_is_planned_only_where_it_is_asked_for() -> None:
    epochs = Objective(epochs=2.0, space=HERE)
    assert {one.candidate.codec for one in estimates(coded(), epochs)} == {"fp32", "bf16"}
    assert best(coded(), replace(epochs, space=replace(HERE, codecs=("topk:0.001",)))) == "topk:0.001"
    (line,) = left_out(coded(), "gradient", to_target=False)
    assert line.endswith("with gradient: not proposed for a number of epochs, unless asked for")


def test_a_profile_of_an_earlier_version_loads_and_is_planned_as_it_was() -> None:
    record = json.loads(json.dumps(asdict(digits_with_pilots())))
    for run in record["pilot"]:
        del run["codec"], run["update_bytes"]
    for facts in record["codecs"].values():
        del facts["large"]
    known = Profile.of({"schema_version": 1, **record})
    found = with_crossover(make_plan(known, objective(), BOOK, processes=1), BOOK, None)
    assert {one.candidate.codec for one in found.candidates} == {"fp32", "bf16"}
    assert found.crossover is None and not any("not proposed" in line for line in found.explanations)


def test_a_codec_that_works_longer_is_simulated_by_itself() -> None:
    known = coded()
    slow = replace(known.codecs["topk:0.01"], encode_s=0.5)
    found = estimates(replace(known, codecs={**known.codecs, "topk:0.01": slow}))
    step_s = {one.candidate.codec: one.step_s for one in found}
    assert step_s["topk:0.01"] > step_s["fp32"] + 0.4


def test_error_feedback_takes_memory() -> None:
    """A residual and what is pending for each worker, and for a recovery one more replica with its optimizer."""
    known = coded()
    inner = known.job.snapshot_bytes - known.job.model_bytes
    more_mb = known.function_mb(32, 4, codec="topk:0.01") - known.function_mb(32, 4)
    assert more_mb * 2**20 == pytest.approx(38_440 + (38_440 + 768) + 2 * 38_440 + inner)
    assert known.costs(codec="topk:0.01").memory_bytes == 38_440 + 768 and known.costs(codec="bf16").memory_bytes == 0


# ---- The crossover.


def test_plans_just_below_and_just_above_the_size_that_is_named_choose_as_it_says(plan: Plan) -> None:
    assert plan.crossover is not None
    known, turn = coded(), plan.crossover.size_bytes
    assert turn.side == "from" and turn.value is not None and (turn.codec, turn.other) == ("topk:0.01", "bf16")
    times = turn.value / known.codecs["fp32"].update_bytes
    assert times > 10
    assert best(grown(known, 0.85 * times), longer=True) == "bf16"
    assert best(grown(known, 1.15 * times), longer=True) == "topk:0.01"


def test_plans_below_and_above_the_latency_that_is_named_choose_as_it_says(plan: Plan) -> None:
    assert plan.crossover is not None
    turn = plan.crossover.latency_s
    assert turn.side == "up to" and turn.value is not None and (turn.codec, turn.other) == ("topk:0.01", "bf16")
    for share, codec in ((0.8, "topk:0.01"), (1.25, "bf16")):
        space = replace(HERE, channels=(f"{1000 * share * turn.value:.3f}ms:bandwidth=85MB/s",))
        assert best(LARGE, objective(space=space), longer=True) == codec


def test_a_crossover_is_one_sentence_in_json_and_on_the_page(plan: Plan) -> None:
    sentence = str(plan.crossover)
    assert re.fullmatch(
        r"bsp, 4 workers x 32, local, 40ms:bandwidth=85MB/s: topk:0\.01 is quicker than bf16 from about [0-9.]+ MB of "
        r"gradient on; with this job's 12 MB, topk:0\.01 is quicker than bf16 up to a latency of about [0-9.]+ ms",
        sentence,
    )
    record = json.loads(json.dumps(plan.to_dict(), allow_nan=False))["crossover"]
    assert record["sentence"] == sentence and record["size_bytes"]["side"] == "from"
    assert set(record["latency_s"]) == {"side", "value", "codec", "other"}
    assert sentence.replace("'", "&#39;") in plan_page(plan, "A plan")


def test_sentences_have_a_size_and_a_latency_with_a_unit() -> None:
    size, latency = Turn("always", None, "a", "b"), Turn("from", 0.0123, "a", "b")
    told = str(Crossover("bsp", "balanced", 3_140_000, size, latency))
    assert told == (
        "bsp: a is better in time x cost than b at any size of gradient; "
        "with this job's 3.1 MB, a is better in time x cost than b from a latency of about 12 ms on"
    )
