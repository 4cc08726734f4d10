"""Leases on a store in memory, under a clock that only the tests move."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambdaml.errors import BadObject, LeaseLost
from lambdaml.log import keys
from lambdaml.log.lease import Lease
from lambdaml.storage import ObjectInfo
from lambdaml.storage.patience import Patience
from lambdaml.worker.leases import Leases
from tests.lambdaml.lab import memory

T = TypeVar("T")
DURATION_S = 30.0


class Bucket:
    """A store whose clock is `now`; asynchronous, and other coroutines may run at every request."""

    def __init__(self) -> None:
        self.store = memory()
        self.now = 1_000_000.0
        self.modified: dict[str, float] = {}
        self.patience = Patience(0.0, lambda: self.now)

    async def get(self, key: str) -> Any:
        await asyncio.sleep(0)
        return self.store.get(key)

    async def create(self, key: str, data: bytes) -> Any:
        await asyncio.sleep(0)
        standing = self.store.create(key, data)
        if standing is None:
            self.modified.setdefault(key, self.now)
        return standing

    async def head(self, key: str) -> Any:
        await asyncio.sleep(0)
        return self.store.head(key)

    async def list(self, prefix: str, after: str = "") -> list[ObjectInfo]:
        await asyncio.sleep(0)
        return [
            ObjectInfo(info.key, info.size_bytes, self.modified[info.key]) for info in self.store.list(prefix, after)
        ]


class Machine:
    """A function's world: the same bucket, and a clock that is off by `skew_s`."""

    def __init__(self, bucket: Bucket, skew_s: float = 0.0) -> None:
        self.store = bucket
        self.skew_s = skew_s

    def now(self) -> float:
        return self.store.now + self.skew_s

    async def sleep(self, seconds: float) -> None:
        self.store.now += seconds

    async def gather(self, *work: Awaitable[T]) -> list[T]:
        return list(await asyncio.gather(*work))


def leases(bucket: Bucket, name: str, skew_s: float = 0.0, dead: tuple[str, ...] = ()) -> Leases:
    made = Leases(Machine(bucket, skew_s), name, DURATION_S, dead)  # type: ignore[arg-type]
    made.set_clock(bucket.now + skew_s - 0.1, bucket.now + skew_s + 0.1, bucket.now)
    return made


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def publish(bucket: Bucket, worker: int, seq: int) -> None:
    run(bucket.create(keys.update(worker, seq), b"update"))


@pytest.fixture
def bucket() -> Bucket:
    return Bucket()


def test_who_could_not_have_a_worker_knows_when_its_lease_runs_out(bucket: Bucket) -> None:
    one, two = leases(bucket, "one"), leases(bucket, "two", skew_s=5000.0)
    assert run(one.acquire(0, 0))
    bucket.now += DURATION_S - 1
    publish(bucket, 0, 0)
    assert not run(two.acquire(0, 0))
    bucket.now = two.runs_out[0] - 5000.0
    assert not run(two.acquire(0, 0)), "the update was seen only now"
    bucket.now = two.runs_out[0] - 5000.0 - 0.01
    assert not run(two.acquire(0, 0))
    bucket.now += 0.01
    assert run(two.acquire(0, 0))
    assert two.runs_out == {}


def test_a_free_worker_is_taken_with_the_first_generation(bucket: Bucket) -> None:
    one = leases(bucket, "one")
    assert run(one.acquire(3, 0))
    assert one.held == {3: 1}
    data = bucket.store.get(keys.lease(3, 1))
    assert Lease.unpack(data or b"", 3, 1) == Lease(3, 1, "one", DURATION_S)


@given(st.integers(2, 12), st.booleans(), st.booleans())
def test_of_many_that_try_at_once_exactly_one_wins(functions: int, fresh: bool, expired: bool) -> None:
    bucket = Bucket()
    if expired:
        assert run(leases(bucket, "gone").acquire(0, 0))
        bucket.now += DURATION_S + 3

    async def race() -> list[bool]:
        return list(await asyncio.gather(*[one.acquire(0, 0, fresh) for one in contenders]))

    contenders = [leases(bucket, f"f{number}") for number in range(functions)]
    assert sum(run(race())) == 1
    assert sum(len(one.held) for one in contenders) == 1


def test_a_lease_that_holds_is_not_taken(bucket: Bucket) -> None:
    assert run(leases(bucket, "one").acquire(0, 0))
    for wait_s in (0.0, 10.0, 19.9):
        bucket.now += wait_s
        assert not run(leases(bucket, "two").acquire(0, 0))
    assert len(list(bucket.store.list(keys.LEASES))) == 1


def test_a_lease_that_ran_out_is_taken_with_the_next_generation(bucket: Bucket) -> None:
    assert run(leases(bucket, "one").acquire(0, 0))
    bucket.now += DURATION_S + 3
    two = leases(bucket, "two")
    assert run(two.acquire(0, 0))
    assert two.held == {0: 2}


@pytest.mark.parametrize("skew_s", [-3600.0, 3600.0, -1e6, 1e9])
def test_a_clock_that_is_off_neither_takes_a_lease_early_nor_leaves_it_forever(bucket: Bucket, skew_s: float) -> None:
    assert run(leases(bucket, "one", -skew_s / 2).acquire(0, 0))
    two = leases(bucket, "two", skew_s)
    bucket.now += DURATION_S - 1
    assert not run(two.acquire(0, 0))
    bucket.now += 4
    assert run(two.acquire(0, 0))


@given(st.floats(0, 20), st.floats(0, 0.999), st.floats(-1e5, 1e5))
def test_a_lease_is_never_taken_early_however_coarse_the_stores_dates_and_slow_its_answers(
    latency_s: float, fraction: float, skew_s: float
) -> None:
    """S3 dates objects in whole seconds, rounded down; and the date may be of any moment of the request."""
    bucket = Bucket()
    two = Leases(Machine(bucket, skew_s), "two", DURATION_S)  # type: ignore[arg-type]
    start = bucket.now + fraction
    for moment in (start, start + latency_s):
        two.set_clock(start + skew_s, start + latency_s + skew_s, float(int(moment)))
        bucket.now = 1_000_000.0 + 500
        assert run(leases(bucket, "one").acquire(0, 0)) or bucket.store.get(keys.lease(0, 1))
        bucket.now = bucket.modified[keys.lease(0, 1)] + DURATION_S - 0.001
        assert not run(two.acquire(0, 0))


def test_publishing_renews(bucket: Bucket) -> None:
    one = leases(bucket, "one")
    assert run(one.acquire(0, 0))
    for seq in range(5):
        bucket.now += DURATION_S - 2
        publish(bucket, 0, seq)
        one.alive(0)
        run(one.renew())
        assert one.held == {0: 1}
    bucket.now += DURATION_S - 2
    two = leases(bucket, "two")
    assert not run(two.acquire(0, 4))
    assert not run(two.acquire(0, 5))
    bucket.now += 5
    assert run(two.acquire(0, 5))


def test_another_workers_updates_do_not_renew(bucket: Bucket) -> None:
    assert run(leases(bucket, "one").acquire(0, 0))
    bucket.now += DURATION_S + 3
    publish(bucket, 1, 0)
    assert run(leases(bucket, "two").acquire(0, 0))


def test_a_quiet_holder_renews_by_the_next_generation_in_good_time(bucket: Bucket) -> None:
    one, two = leases(bucket, "one"), leases(bucket, "two")
    assert run(one.acquire(0, 0))
    for _ in range(40):
        bucket.now += DURATION_S / 8
        run(one.renew())
        assert not run(two.acquire(0, 0))
    generations = [keys.number(info.key) for info in bucket.store.list(keys.LEASES)]
    assert generations == list(range(1, one.held[0] + 1))
    assert 5 <= one.held[0] <= 12


def test_renewing_costs_nothing_while_work_flows(bucket: Bucket) -> None:
    one = leases(bucket, "one")
    assert run(one.acquire(0, 0))
    for _ in range(100):
        bucket.now += 5.0
        one.alive(0)
        run(one.renew())
    assert len(list(bucket.store.list(keys.LEASES))) == 1


def test_who_lost_its_lease_learns_it_when_it_renews_and_holds_the_worker_no_more(bucket: Bucket) -> None:
    one, two = leases(bucket, "one"), leases(bucket, "two")
    assert run(one.acquire(0, 0))
    assert run(one.acquire(1, 0))
    bucket.now += DURATION_S + 3
    assert run(two.acquire(0, 0))
    with pytest.raises(LeaseLost, match=r"\[0\]"):
        run(one.renew())
    assert one.held == {1: 2}
    assert two.held == {0: 2}


def test_while_leases_are_renewed_each_worker_has_a_generation_until_all_that_were_lost_are_known(
    bucket: Bucket,
) -> None:
    one, two = leases(bucket, "one"), leases(bucket, "two")
    assert run(one.acquire(0, 0)) and run(one.acquire(1, 0))
    bucket.now += DURATION_S + 3
    assert run(two.acquire(0, 0))
    create = bucket.create

    async def seen(key: str, data: bytes) -> Any:
        assert set(one.held) == {0, 1}, "an update that is computed now would have no generation, and be rejected"
        return await create(key, data)

    bucket.create = seen  # type: ignore[method-assign]
    with pytest.raises(LeaseLost):
        run(one.renew())
    assert one.held == {1: 2}


def test_a_lease_is_released_though_a_renewal_was_cancelled_when_its_request_was_under_way(bucket: Bucket) -> None:
    one, two = leases(bucket, "one"), leases(bucket, "two")
    assert run(one.acquire(0, 0))
    bucket.now += 0.6 * DURATION_S
    create = bucket.create

    async def unanswered(key: str, data: bytes) -> Any:
        await create(key, data)
        await asyncio.Event().wait()

    async def leave() -> None:
        bucket.create = unanswered  # type: ignore[method-assign]
        renewing = asyncio.ensure_future(one.renew())
        while bucket.store.head(keys.lease(0, 2)) is None:
            await asyncio.sleep(0)
        renewing.cancel()
        bucket.create = create  # type: ignore[method-assign]
        await one.release(0)

    run(leave())
    assert run(two.acquire(0, 0)), "it need not wait until the lease runs out"


def test_a_worker_that_was_given_back_is_free_at_once(bucket: Bucket) -> None:
    one, two = leases(bucket, "one"), leases(bucket, "two")
    assert run(one.acquire(0, 0))
    run(one.release(0))
    assert one.held == {}
    assert run(two.acquire(0, 0))
    assert two.held == {0: 3}
    assert not run(one.acquire(0, 0))


def test_giving_back_what_was_lost_does_not_free_it(bucket: Bucket) -> None:
    one, two, three = (leases(bucket, name) for name in ("one", "two", "three"))
    assert run(one.acquire(0, 0))
    bucket.now += DURATION_S + 3
    assert run(two.acquire(0, 0))
    run(one.release(0))
    assert not run(three.acquire(0, 0))
    run(one.release(0))
    assert two.held == {0: 2}


def test_a_function_that_the_engine_saw_die_holds_nothing(bucket: Bucket) -> None:
    assert run(leases(bucket, "one").acquire(0, 0))
    assert not run(leases(bucket, "two", dead=("three",)).acquire(0, 0))
    assert run(leases(bucket, "two", dead=("one",)).acquire(0, 0))


def test_a_function_that_takes_a_worker_back_is_not_dead(bucket: Bucket) -> None:
    meant, spare = leases(bucket, "meant"), leases(bucket, "spare", dead=("meant",))
    assert run(meant.acquire(0, 0))
    assert run(spare.acquire(0, 0, backup=True))
    assert run(meant.acquire(0, 0))
    assert not run(spare.acquire(0, 0, backup=True))
    assert not run(spare.acquire(0, 0, backup=True))
    assert meant.held == {0: 3}


def test_who_stands_in_gives_way_to_the_function_that_is_meant_and_to_nobody_else(bucket: Bucket) -> None:
    spare, other, meant = (leases(bucket, name) for name in ("spare", "other", "meant"))
    assert run(spare.acquire(0, 0, backup=True))
    assert run(spare.acquire(1, 0))
    assert not run(other.acquire(0, 0, backup=True))
    for _ in range(8):  # it goes on standing in when it renews
        bucket.now += DURATION_S / 4
        run(spare.renew())
        assert not run(other.acquire(0, 0, backup=True))
    assert run(meant.acquire(0, 0))
    spare.alive(0)
    with pytest.raises(LeaseLost, match=r"\[0\]"):
        run(spare.renew())
    assert list(spare.held) == [1]
    assert not run(other.acquire(0, 0)) and not run(spare.acquire(0, 0))
    run(meant.renew())
    assert list(meant.held) == [0]


def test_a_new_run_is_taken_without_looking_first(bucket: Bucket) -> None:
    asked: list[str] = []
    listing = bucket.list

    async def watched(prefix: str, after: str = "") -> list[ObjectInfo]:
        asked.append(prefix)
        return await listing(prefix, after)

    bucket.list = watched  # type: ignore[method-assign]
    assert run(leases(bucket, "one").acquire(0, 0, fresh=True))
    assert asked == []
    assert not run(leases(bucket, "two").acquire(0, 0, fresh=True))


def test_a_damaged_lease_is_a_bad_object(bucket: Bucket) -> None:
    run(bucket.create(keys.lease(0, 1), b"{"))
    with pytest.raises(BadObject, match=keys.lease(0, 1)):
        run(leases(bucket, "one").acquire(0, 0))


@given(st.lists(st.tuples(st.sampled_from(["acquire", "renew", "release", "wait", "publish"]), st.integers(0, 2))))
def test_two_functions_never_hold_a_worker_with_the_same_generation(script: list[tuple[str, int]]) -> None:
    """Whatever they do and however long they sleep: generations are won once, and only go up."""
    bucket = Bucket()
    functions = [leases(bucket, f"f{number}", skew_s=number * 1000.0) for number in range(3)]
    won: list[tuple[int, int]] = []
    seq = 0
    for what, who in script:
        one = functions[who]
        before = one.held.get(0)
        if what == "acquire" and before is None:
            run(one.acquire(0, seq))
        elif what == "renew":
            try:
                run(one.renew())
            except LeaseLost:
                assert 0 not in one.held
        elif what == "release":
            run(one.release(0))
        elif what == "publish" and before is not None:
            publish(bucket, 0, seq)
            one.alive(0)
            seq += 1
        else:
            bucket.now += 13.0
        now = one.held.get(0)
        if now is not None and now != before:
            won.append((now, who))
    generations = [generation for generation, _ in won]
    assert generations == sorted(set(generations))
