"""What functions of a launch tell each other by way of the bucket: lives are claimed once, and not for ever."""

import pytest

from lambdaml.errors import BadObject
from lambdaml.log import keys
from lambdaml.log.launches import MAX_DEATHS, Claim, Launch, name_of, prefix_of
from lambdaml.storage import Store, open_store


@pytest.fixture
def store(request: pytest.FixtureRequest) -> Store:
    return open_store(f"memory://{request.node.name}")


def test_a_life_is_claimed_once(store: Store) -> None:
    first, second = Launch(store, "a"), Launch(store, "a")
    assert first.claim(3, 0, by="one")
    assert not second.claim(3, 0, by="one"), "also not by another delivery of the same event"
    assert second.claim(3, 1)
    assert Launch(store, "b").claim(3, 0), "another launch has lives of its own"


def test_a_function_is_revived_when_its_life_had_the_time_to_show_itself(store: Store) -> None:
    launch = Launch(store, "a")
    assert launch.revive(0, 60.0) == 0, "it never had a life: whoever should have started it died"
    assert launch.revive(0, 60.0) is None
    assert launch.revive(0, 0.0) == 1


def test_a_function_that_dies_again_and_again_is_revived_only_if_the_run_goes_on(store: Store) -> None:
    launch = Launch(store, "a")
    assert [launch.revive(0, 0.0) for _ in range(MAX_DEATHS + 2)] == [*range(MAX_DEATHS), None, None]
    assert launch.hopeless(0)
    assert not launch.hopeless(1)
    store.create(keys.log(0), b"a commit")
    assert not launch.hopeless(0)
    assert launch.revive(0, 0.0) == MAX_DEATHS


def test_lives_that_ended_in_order_are_no_deaths(store: Store) -> None:
    launch = Launch(store, "a")
    assert all(launch.claim(0, life) for life in range(3 * MAX_DEATHS))
    assert not launch.hopeless(0)


def test_nobody_is_revived_who_is_to_leave_or_would_meet_the_same_error(store: Store) -> None:
    leaving, failed = Launch(store, "a"), Launch(store, "b")
    leaving.leave()
    failed.fail("f", {"event": "error", "type": "JobFailed"})
    assert leaving.over()
    assert not failed.over()
    assert failed.failures() == [{"event": "error", "type": "JobFailed"}]
    assert leaving.revive(0, 0.0) is None
    assert failed.revive(0, 0.0) is None


def test_an_evaluation_is_claimed_once(store: Store) -> None:
    launch = Launch(store, "a")
    assert launch.evaluate(10)
    assert not launch.evaluate(10)
    assert launch.evaluate(20)


def test_names_belong_to_one_launch_and_are_never_the_same() -> None:
    names = {name_of("ab", 1, 0) for _ in range(100)}
    assert len(names) == 100
    assert all(name.startswith(prefix_of("ab")) for name in names)
    assert not any(name.startswith(prefix_of("a")) for name in names)


def test_a_claim_reads_back() -> None:
    claim = Claim(commits=7, died=True, by="f")
    assert Claim.read(claim.dump(), "k") == claim
    with pytest.raises(BadObject):
        Claim.read(claim.dump()[:-2], "k")
