"""What a run that goes on has spent stands beside its plan and its caps."""

from __future__ import annotations

from lambdaml.cost.billing.caps import Caps
from lambdaml.cost.billing.prices import prices
from lambdaml.cost.billing.tariff import Tariff
from lambdaml.cost.reporting.spending import Against, Purse
from lambdaml.engines.invoke import Work
from lambdaml.log.launches import Launch
from lambdaml.storage import open_store
from lambdaml.traces.observer import Observer
from tests.lambdaml.lab import Tiny, train

PLAN = {"platform": "lambda-arm:1769", "channel": "s3-standard", "usd": 0.5, "requests": 1000, "seconds": 60.0}


def test_spending_stands_beside_plan_and_caps() -> None:
    run = train(Tiny, workers=2, steps=4, engine="inline", planned=PLAN)
    caps = Caps(budget_usd=2.0, max_requests=4000, tariff=Tariff(prices(), "s3-standard", "lambda-arm:1769"))
    work = Work("aa", run.url, 2, 0, 2, 0, None, "1.0", cap=caps.to_dict())
    Launch(open_store(run.url), "aa").begin(work.to_event())
    observer = Observer(run.url)
    purse = Purse(observer.run)
    observer.look()
    found = purse.spending(observer.finish())
    used = sum(sum(usage.reading.requests.values()) for usage in run.usage())
    assert found.requests == Against(used, 1000, 4000)
    assert 0 < found.usd.used < 0.01
    assert (found.usd.planned, found.usd.cap, found.platform) == (0.5, 2.0, "lambda-arm:1769")
    assert (found.seconds.planned, found.seconds.cap) == (60.0, None)
    assert 0 < found.view_usd < 0.001


def test_a_planned_run_is_billed_as_it_was_planned() -> None:
    observer = Observer(train(Tiny, workers=1, steps=2, engine="inline", planned=PLAN).url)
    found = Purse(observer.run).spending(observer.finish())
    assert (found.platform, found.channel) == ("lambda-arm:1769", "s3-standard")
    assert found.usd.used > 0


def test_a_run_without_plan_or_caps_has_neither() -> None:
    observer = Observer(train(Tiny, workers=1, steps=2, engine="inline").url)
    found = Purse(observer.run).spending(observer.finish())
    assert (found.usd, found.requests.planned, found.requests.cap) == (Against(0.0), None, None)
    assert found.to_dict()["platform"] == "local"
