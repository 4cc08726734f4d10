"""The pattern that is chosen: the quickest of those that fit, and where another one would be better."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lambdaml.cost.billing.prices import PriceBook
from lambdaml.cost.billing.tariff import Tariff
from lambdaml.cost.planning.exchange import Route, Traffic, round_cost
from lambdaml.cost.planning.pattern_choice import (
    PATTERN_TIE,
    choose_pattern,
    expected_cost,
    possible_patterns,
    round_usd,
    traffic_of,
)
from lambdaml.errors import SettingsError
from lambdaml.options import RunOptions
from lambdaml.simulation.channel import Channel

ROUTE = Route(Channel.parse("s3-standard"), 78.6e6)


def tariff() -> Tariff:
    return Tariff(PriceBook.load(), "s3-standard", "lambda-arm:1769", 1769)


def traffic(asked: RunOptions, size: float) -> Traffic:
    return traffic_of(asked, asked.workers, size, size, compute_s=0.1)


@pytest.mark.parametrize("workers", [1, 2, 4, 16, 128])
@pytest.mark.parametrize("size", [1e4, 1e6, 1e8])
@pytest.mark.parametrize("schedule", ["bsp", "asp"])
def test_no_pattern_that_fits_has_quicker_rounds(workers: int, size: float, schedule: str) -> None:
    asked = RunOptions(workers=workers, schedule=schedule)
    exchanged = traffic(asked, size)
    choice = choose_pattern(asked, exchanged, ROUTE, tariff())
    found = {name: expected_cost(name, exchanged, ROUTE).seconds for name in possible_patterns(asked, exchanged)}
    assert choice.cost.seconds == found[choice.pattern] <= (1 + PATTERN_TIE) * min(found.values())
    assert {choice.pattern, *choice.others} == set(found)


@pytest.mark.parametrize(("workers", "size"), [(4, 1e6), (8, 1e8), (64, 4e6)])
def test_at_the_crossover_the_choice_changes(workers: int, size: float) -> None:
    asked = RunOptions(workers=workers)
    choice = choose_pattern(asked, traffic(asked, size), ROUTE, tariff())
    assert choice.turn is not None and choice.turn.below == (choice.turn.size_bytes < size)
    own, others = (
        choose_pattern(asked, traffic(asked, times * choice.turn.size_bytes), ROUTE, tariff()).pattern.split(":")[0]
        for times in ((1.02, 0.98) if choice.turn.below else (0.98, 1.02))
    )
    assert own == choice.pattern.split(":")[0] and others == choice.turn.pattern.split(":")[0] != own


def test_the_sentence_names_pattern_seconds_dollars_and_the_crossover() -> None:
    asked = RunOptions(workers=8)
    told = str(choose_pattern(asked, traffic(asked, 1e8), ROUTE, tariff()))
    assert told.startswith("pattern scatter: a round takes about ") and " s and $" in told
    assert told.endswith(" MB gather would be better") and "; below " in told


def test_a_bracket_or_parts_that_only_gather_fits_leave_gather() -> None:
    asked = RunOptions(workers=64, staleness="inverse", codec="topk:0.01", bracket="7")
    choice = choose_pattern(asked, traffic(asked, 1e6), ROUTE, tariff())
    assert choice.pattern == "gather" and str(choice).endswith("no other pattern fits this run")


def test_a_bracket_leaves_the_tree_that_adds_up_in_it() -> None:
    asked = RunOptions(workers=64, bracket="8^2")
    assert set(possible_patterns(asked, traffic(asked, 1e6))) == {"gather", "scatter", "tree:8"}


def test_options_that_make_no_sense_are_refused_whatever_the_pattern() -> None:
    with pytest.raises(SettingsError, match="bracket"):
        possible_patterns(RunOptions(workers=4, bracket="x"), traffic(RunOptions(), 1e6))


def test_a_round_of_gather_costs_its_requests_and_its_functions_seconds() -> None:
    asked, book = RunOptions(workers=4), PriceBook.load()
    cost = round_cost("gather", traffic(asked, 1e6), ROUTE)
    puts_gets = 5 * book["s3-standard/put"].usd + 12 * 8 / 7 * book["s3-standard/get"].usd
    per_s = book["lambda-arm/duration"].usd * 1769 / 1024
    assert round_usd(cost, traffic(asked, 1e6), tariff()) == pytest.approx(
        puts_gets + 4 * cost.seconds * per_s, rel=1e-3
    )


def test_dearer_requests_do_not_make_a_run_more_than_a_tie_slower() -> None:
    asked = RunOptions(workers=8)
    exchanged, even = traffic(asked, 1e7), replace(ROUTE, channel=Channel.parse("40ms:bandwidth=85MB/s"))
    cheap, dear = (
        choose_pattern(asked, exchanged, even, Tariff(PriceBook.load(), store, "local"))
        for store in ("disk", "s3-standard")
    )
    assert dear.cost.seconds <= (1 + PATTERN_TIE) * cheap.cost.seconds and cheap.usd <= dear.usd
