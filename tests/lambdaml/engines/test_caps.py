"""A run leaves off before it has spent more than it may, and goes on to the same bits."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import lambdaml
from lambdaml.cost.billing.caps import Caps
from lambdaml.cost.billing.prices import PriceBook
from lambdaml.cost.billing.tariff import Quantities, Tariff
from lambdaml.engines.accounts import total
from lambdaml.engines.caps import Spent
from lambdaml.errors import RunCapped, SettingsError
from lambdaml.storage import MeterReading
from tests.lambdaml.lab import model_bytes

JOB = f"{Path(__file__).parents[1] / 'lab.py'}:Tiny"
WORKERS, STEPS = 3, 45
TARIFF = Tariff(PriceBook.load(), "s3-standard", "lambda-arm:1769")


def train(url: str, **options: Any) -> lambdaml.TrainResult:
    given = {"workers": WORKERS, "steps": STEPS, "functions": 2, "snapshot_every": 25, **options}
    return lambdaml.train(JOB, url, **given)


def spent(url: str) -> int:
    return total(lambdaml.Run(url).usage()).total


@pytest.fixture(scope="module")
def plain() -> lambdaml.TrainResult:
    return train(f"memory://{secrets.token_hex(6)}")


@pytest.fixture(params=["inline", "local"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    return request.param, f"file://{tmp_path}/run"


def test_a_cap_on_requests_is_kept_and_the_run_goes_on_to_the_same_bits(
    place: tuple[str, str], plain: lambdaml.TrainResult
) -> None:
    engine, url = place
    a_round = sum(plain.requests.values()) / STEPS
    cap = int(sum(plain.requests.values()) * 0.6)
    for _ in range(4):
        url += "-again"
        with pytest.raises(RunCapped, match=rf"of {cap:,} requests. The run has stopped at version \d+, after"):
            train(url, engine=engine, cap=Caps(max_requests=cap))
        assert spent(url) <= cap + a_round
        if spent(url) > cap / 3:  # else the machine hesitated, so that more might have been spent than was heard of
            break
    assert cap / 3 < spent(url)
    run = lambdaml.Run(url)
    version = run.summary().version
    assert 0 < version < STEPS
    assert run.store.head(f"snapshots/{version:010d}.safetensors") is not None
    assert run.status().functions == (), "leases were given back"
    assert run.verify().faults == []

    events: list[str] = []
    with pytest.raises(RunCapped):
        lambdaml.resume(
            url,
            engine="inline",
            cap=Caps(max_requests=spent(url) + a_round),
            on_event=lambda event: events.append(event.event),
        )
    assert events == ["run"], "what was spent before counts, so no function starts"
    result = lambdaml.resume(url, engine=engine, functions=2, cap=Caps(max_requests=10 * cap))
    assert result.model_sha256 == plain.model_sha256
    assert lambdaml.Run(url).verify().faults == []


def test_a_budget_is_kept() -> None:
    url, budget = f"memory://{secrets.token_hex(6)}", 0.003
    with pytest.raises(RunCapped, match=r"of \$0\.003000"):
        train(url, steps=10**6, cap=Caps(budget_usd=budget, tariff=TARIFF))
    usage = lambdaml.Run(url).usage()
    reading = total(usage)
    lifetimes = [each.seconds for each in usage if not each.launcher]
    used = Quantities(lifetimes, reading.requests, reading.bytes_sent, reading.bytes_received)
    assert budget / 5 < TARIFF.bill(used).usd <= budget


def test_a_deadline_is_of_one_call_and_the_run_can_go_on() -> None:
    def after_five_commits(so_far: Spent) -> str | None:
        return Caps(deadline_s=so_far.seconds - 0.001)(so_far) if so_far.commits >= 5 else None

    url = f"memory://{secrets.token_hex(6)}"
    with pytest.raises(RunCapped, match="one more round would take it to"):
        train(url, steps=10**6, cap=after_five_commits)
    first = lambdaml.Run(url).summary().version
    with pytest.raises(RunCapped, match="one more round would take it to"):
        lambdaml.resume(url, functions=2, cap=after_five_commits)
    assert lambdaml.Run(url).summary().version > first >= 5


def test_an_asynchronous_run_is_capped_too() -> None:
    url = f"memory://{secrets.token_hex(6)}"
    with pytest.raises(RunCapped):
        train(url, schedule="asp", steps=10**6, cap=Caps(max_requests=1500))
    assert 300 < spent(url) <= 1500
    assert lambdaml.Run(url).verify().faults == []


def test_a_cap_that_is_not_reached_changes_nothing(plain: lambdaml.TrainResult) -> None:
    asked: list[Spent] = []

    def never(so_far: Spent) -> None:
        asked.append(so_far)

    result = train(f"memory://{secrets.token_hex(6)}", cap=never)
    assert result.model_sha256 == plain.model_sha256
    assert len(asked) > 5
    assert asked[-1].commits <= STEPS
    assert asked[-1].invocations == 2
    assert asked[-1].function_seconds > 0
    assert asked[-1].reading.total >= sum(result.requests.values()), "the end was foreseen"


def test_a_cap_below_what_a_start_costs_starts_nothing() -> None:
    events: list[str] = []
    url = f"memory://{secrets.token_hex(6)}"
    with pytest.raises(RunCapped, match="stopped at version 0"):
        train(url, cap=Caps(max_requests=10), on_event=lambda event: events.append(event.event))
    assert events == ["run"]


def test_a_model_is_not_touched_by_a_cap_that_comes_too_late() -> None:
    url = f"memory://{secrets.token_hex(6)}"
    result = train(url, cap=lambda so_far: "too late" if so_far.commits == STEPS else None)
    assert result.stop == "steps"
    assert model_bytes(lambdaml.Run(url))


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Caps(max_requests=0), "max_requests: must be more than 0"),
        (lambda: Caps(deadline_s=float("nan")), "deadline_s: must be more than 0"),
        (lambda: Caps(budget_usd=1.0), "a budget needs prices"),
        (lambda: Caps(1.0, tariff=Tariff(PriceBook.load(), "disk", "local")), "a budget makes no sense"),
    ],
)
def test_a_cap_that_means_nothing_is_refused(make: Callable[[], object], complaint: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(complaint)):
        make()


def test_a_cap_that_was_written_down_says_the_same_by_the_same_prices() -> None:
    book = PriceBook.load()
    dear = book.replaced({"s3-standard/get": replace(book["s3-standard/get"], usd=1.0)})
    spent = Spent(10.0, 12.0, (3.0, 4.5), MeterReading({"get": 7, "create": 3}), 4)
    for platform in ("lambda-arm:1769", "ec2-t3.micro" if "ec2-t3.micro" in book.places else "spot"):
        cap = Caps(5.0, 11.0, 100.0, Tariff(dear, "s3-standard", platform))
        again = Caps.from_dict(json.loads(json.dumps(cap.to_dict())))
        assert again(spent) == cap(spent)
        assert again(spent) is not None and "$7.0" in (again(spent) or "")
    assert Caps.from_dict(Caps(max_requests=5.0).to_dict())(spent) is not None
