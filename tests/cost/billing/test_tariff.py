"""Arithmetic of bills: what is billed, in which units, how it is rounded, and what adds up."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambdaml.cost.billing.prices import Price, PriceBook
from lambdaml.cost.billing.tariff import GB_BYTES, MONTH_S, PARTS, REQUESTS, Bill, Quantities, Tariff, billed_s
from lambdaml.errors import SettingsError
from lambdaml.simulation.channel import CHANNELS
from lambdaml.simulation.platform import PLATFORMS
from lambdaml.simulation.regions import REGIONS

BOOK = PriceBook.load()
MIB = 2**20

kinds = st.sampled_from([kind for kinds in REQUESTS.values() for kind in kinds])
counts = st.dictionaries(kinds, st.integers(0, 10**6))
used = st.builds(
    Quantities,
    lifetimes_s=st.lists(st.floats(0, 900), max_size=20),
    requests=counts,
    bytes_sent=st.integers(0, 10**12),
    bytes_received=st.integers(0, 10**12),
    stored_byte_s=st.floats(0, 1e15),
    wall_s=st.floats(0, 1e5),
)
places = st.tuples(st.sampled_from(sorted(CHANNELS)), st.sampled_from(sorted(PLATFORMS.factories)))


def bill(channel: str, platform: str = "local", transfer: str = "same-region", **quantities: object) -> Bill:
    return Tariff(BOOK, channel, platform, transfer=transfer).bill(Quantities(**quantities))  # type: ignore[arg-type]


def request_usd(channel: str, kind: str, sent: int = 0, received: int = 0) -> float:
    return bill(channel, requests={kind: 1}, bytes_sent=sent, bytes_received=received).parts()["requests"]


def test_a_function_for_an_hour() -> None:
    hour = {name: bill("disk", name, lifetimes_s=[3600]).usd for name in ("lambda-x86", "lambda-arm", "spot", "local")}
    assert hour == pytest.approx({"lambda-x86": 0.1037, "lambda-arm": 0.0829, "spot": 0.0408, "local": 0}, abs=1e-4)
    assert bill("disk", "lambda-x86", lifetimes_s=[0]).usd == 0.2e-6
    assert bill("disk", "lambda-arm:3538", lifetimes_s=[100]).usd == pytest.approx(
        2 * bill("disk", "lambda-arm", lifetimes_s=[100]).usd, rel=1e-3
    )
    assert bill("disk", "ec2-m7g.large", lifetimes_s=[3600]).usd == BOOK["ec2-m7g.large/instance"].usd


@pytest.mark.parametrize(
    ("platform", "usd"),
    [
        (
            "microvm:2048",
            0.0000276944 * 3600 + 2 * 0.0000036667 * 3600,
        ),  # 1 vCPU and 2 GB: $0.126, as landscapes quote it
        ("microvm:8192", 4 * (0.0000276944 * 3600 + 2 * 0.0000036667 * 3600)),
        ("fargate:2048", 0.04048 + 2 * 0.004445),
        ("cloud-run:2048", 3600 * (0.000018 + 2 * 0.000002)),
        ("batch-spot", 0.18 / 8),
        ("durable:1769", 0.0829 + 8.2e-6),
        ("managed", 3 * 0.0816 * 1.15 + 0.2e-6),  # three instances stand while one works
    ],
)
def test_an_hour_of_a_function_on_platforms_that_bill_otherwise(platform: str, usd: float) -> None:
    assert bill("disk", platform, lifetimes_s=[3600], wall_s=3600).usd == pytest.approx(usd, rel=1e-3)


def test_managed_instances_cost_what_works_once_that_is_more_than_three() -> None:
    five = bill("disk", "managed", lifetimes_s=[3600] * 5, wall_s=3600).usd
    assert five == pytest.approx(5 * (0.0816 * 1.15 + 0.2e-6))


def test_a_second_on_fargate_is_billed_as_a_minute() -> None:
    assert bill("disk", "fargate", lifetimes_s=[1]).usd == bill("disk", "fargate", lifetimes_s=[60]).usd


def test_lambda_bills_each_invocation_up_to_the_next_millisecond() -> None:
    price = BOOK["lambda-arm/duration"]
    assert billed_s([0.0001] * 3, price) == pytest.approx(0.003)
    assert billed_s([1.1, 0.07, 2.0001], price) == pytest.approx(1.1 + 0.07 + 2.001)
    assert billed_s([], price) == 0


def test_ec2_bills_each_start_up_to_the_next_second_and_a_minute_at_least() -> None:
    assert billed_s([0.5, 59.9, 60.0, 60.2, 3600], BOOK["spot/instance"]) == 60 + 60 + 60 + 61 + 3600
    (line,) = bill("disk", "spot", lifetimes_s=[1.0, 1.0]).lines
    assert (line.quantity, line.price.unit) == (pytest.approx(2 / 60), "hour")


def test_s3_bills_requests_by_kind_and_nothing_for_bytes_or_deletes() -> None:
    one = {kind: request_usd("s3-standard", kind, 16 * MIB, 16 * MIB) for kinds in REQUESTS.values() for kind in kinds}
    assert {one[kind] for kind in ("get", "get_miss", "get_range", "head")} == {4e-7}
    assert {one[kind] for kind in ("put", "create", "create_lost", "list")} == {5e-6}
    assert one["delete"] == 0
    kept = bill("s3-standard", stored_byte_s=10 * GB_BYTES * MONTH_S)
    assert kept.parts() == pytest.approx({"functions": 0, "requests": 0, "storage": 0.23, "transfer": 0})


def test_express_and_valkey_bill_bytes_as_well() -> None:
    assert request_usd("s3-express", "put", sent=16 * MIB) == pytest.approx(5.1e-5, rel=0.01)
    assert request_usd("s3-express", "get", received=16 * MIB) == pytest.approx(24 * 4e-7, rel=0.03)
    assert request_usd("redis", "put", sent=16 * MIB) == pytest.approx(3.8e-5, rel=0.01)


def test_valkey_keeps_100_mb_at_least_and_a_server_is_paid_by_the_hour() -> None:
    assert bill("redis", wall_s=3600, stored_byte_s=1e6).usd == pytest.approx(0.0084)
    assert bill("redis", wall_s=3600, stored_byte_s=2 * GB_BYTES * 3600).usd == pytest.approx(0.168)
    assert bill("lambdaml-elasticache", wall_s=1800).parts()["storage"] == pytest.approx(0.034)
    assert bill("valkey-t3.medium", wall_s=1800).usd > 0


def test_what_leaves_the_region_is_billed_only_when_it_does() -> None:
    moved = {"bytes_sent": GB_BYTES, "bytes_received": 3 * GB_BYTES}
    ways = {way: bill("s3-standard", transfer=way, **moved).parts()["transfer"] for way in ("same-region", "internet")}
    assert ways == {"same-region": 0, "internet": pytest.approx(3 * 0.09)}
    assert bill("s3-standard", transfer="nat", **moved).usd == pytest.approx(4 * 0.045)


def test_what_has_no_price_is_said_so() -> None:
    free = bill("40ms", "local", lifetimes_s=[1.0], requests={"get": 3})
    assert (free.usd, free.lines) == (0, ())
    assert [note.rpartition(" ")[2] for note in free.notes] == ["local", "40ms"]
    fmi = bill("fmi-s3", requests={"get": 2, "list": 3, "delete": 1, "put": 0})
    assert fmi.usd == pytest.approx(2 * 0.43e-6)
    assert fmi.notes == ("not billed, having no price: list 3, delete 1",)
    assert not bill("s3-standard", "lambda-arm", lifetimes_s=[1.0], requests={"get": 3, "list": 1}).notes


def test_options_of_a_channel_do_not_change_its_prices() -> None:
    options = bill("s3-standard:bandwidth=40MB/s", requests={"get": 1000})
    assert options == bill("s3-standard", requests={"get": 1000})


@given(places, used)
def test_the_lines_add_up_and_every_line_says_where_its_price_is_from(place: tuple[str, str], q: Quantities) -> None:
    found = Tariff(BOOK, *place).bill(q)
    assert found.usd == math.fsum(line.usd for line in found.lines)
    assert found.usd == pytest.approx(math.fsum(found.parts().values()), abs=1e-12)
    for line in found.lines:
        assert line.usd == line.quantity * line.price.usd and line.part in PARTS
        assert BOOK[line.price.id] == line.price
    record = found.to_dict()
    assert record["usd"] == found.usd and len(record["lines"]) == len(found.lines)


@given(places, used, used)
def test_two_bills_make_the_bill_of_both_but_for_the_least_storage(
    place: tuple[str, str], one: Quantities, two: Quantities
) -> None:
    """Roundings are those of single functions, so they add up, too; only 100 MB and three instances at least do not."""
    tariff = Tariff(BOOK, *place)
    both, apart = tariff.bill(one + two).parts(), [tariff.bill(q).parts() for q in (one, two)]
    for part in PARTS:
        summed = apart[0][part] + apart[1][part]
        if (part, place[0]) == ("storage", "redis") or (part, place[1]) == ("functions", "managed"):
            assert both[part] <= summed * (1 + 1e-9)
        else:
            assert both[part] == pytest.approx(summed, rel=1e-9, abs=1e-15)


@given(st.lists(st.floats(0, 900), max_size=50), st.sampled_from(["lambda-arm/duration", "spot/instance"]))
def test_what_is_billed_is_never_less_and_at_most_a_step_or_the_minimum_more(lifetimes: list[float], id: str) -> None:
    price = BOOK[id]
    exact = math.fsum(max(seconds, price.minimum_s) for seconds in lifetimes)
    billed = billed_s(lifetimes, price)
    assert exact - 1e-5 <= billed <= exact + len(lifetimes) * price.step_s + 1e-9


def test_seconds_are_billed_as_they_are_where_the_price_has_no_step() -> None:
    price = Price("spot/instance", 1.0, "hour", "here", "2026")
    assert billed_s([0.25, 0.5], price) == 0.75
    assert billed_s([0.25, 0.5], replace(price, minimum_s=0.3)) == 0.8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("s3-standrad", "local"), "did you mean s3-standard"),
        (("lambda-arm", "local"), "'lambda-arm' is no store"),
        (("s3-standard", "lambda-amr"), "there is no platform 'lambda-amr'.*'lambda-arm'"),
        (("s3-standard", "redis"), "there is no platform 'redis'"),
        (("s3-standard", "lambda-arm:64"), "128 to 10240 MB"),
        (("s3-standard", "fmi"), "'fmi' bills memory: write how much, as in 'fmi:3008'"),
        (("s3-standard", "fmi:much"), "write the memory in MB"),
        (("s3-standard", "local", None, "intranet"), "no transfer 'intranet'.*'internet'"),
    ],
)
def test_a_mistake_is_refused_in_one_line(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        Tariff(BOOK, *arguments)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_memory_can_be_given_apart() -> None:
    assert Tariff(BOOK, "s3-standard", "lambda-arm", 3008).memory_mb == 3008
    assert Tariff(BOOK, "s3-standard", "lambda-arm:3008").memory_mb == 3008
    assert Tariff(BOOK, "s3-standard", "fmi:1024").memory_mb == 1024


def test_what_crosses_regions_is_billed_at_the_price_of_the_region_that_it_leaves() -> None:
    pairs = {("us-east-1", "sa-east-1"): 3 * GB_BYTES, ("sa-east-1", "us-east-1"): GB_BYTES // 2}
    tariff = Tariff(BOOK, "s3-standard", "lambda-arm", regions=("us-east-1", "sa-east-1"))
    quantities = Quantities(bytes_sent=GB_BYTES, bytes_received=9 * GB_BYTES, moved=pairs)
    usd = 3 * BOOK["us-east-1/cross-region"].usd + 0.5 * BOOK["sa-east-1/cross-region"].usd
    found = tariff.bill(quantities)
    assert found.usd == pytest.approx(found.parts()["transfer"]) == pytest.approx(usd)
    assert [line.what for line in found.lines] == ["us-east-1 to sa-east-1", "sa-east-1 to us-east-1"]
    assert Tariff.from_dict(tariff.to_dict()).bill(quantities) == found
    assert tariff.bill(quantities + quantities).usd == pytest.approx(2 * usd)
    with pytest.raises(SettingsError, match="did you mean 'us-west-1/cross-region' or 'us-east-1/cross-region'"):
        Tariff(BOOK, "s3-standard", "lambda-arm", regions=("us-est-1",))


def test_each_region_of_simulations_has_a_price() -> None:
    assert all(BOOK[f"{region}/{item}"].usd > 0 for region in REGIONS for item in ("cross-region", "internet"))
    assert BOOK["us-east-1/cross-region"].usd == BOOK["transfer/cross-region"].usd
    assert BOOK["us-east-1/internet"].usd == BOOK["transfer/internet"].usd
