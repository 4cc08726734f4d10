"""An observer sees how a run goes on, at a bounded pace, and says when nothing moves and for whom the run waits."""

from __future__ import annotations

import secrets

import pytest

import lambdaml
from lambdaml.log import keys
from lambdaml.log.lease import Lease
from lambdaml.storage import MemoryStore
from lambdaml.traces.observer import OPENING, SHARE, Observer
from lambdaml.traces.seen import SHOWN, Seen, condensed
from tests.lambdaml.lab import Tiny, broken_off, train


class Shown:
    """A finished run that is shown to an observer again, one commit in `commit_s` seconds of a clock of its own."""

    def __init__(self, run: lambdaml.Run, commit_s: float) -> None:
        self.now_s, self._commit_s = 0.0, commit_s
        self._source = MemoryStore(run.url.removeprefix("memory://"))
        name = secrets.token_hex(6)
        self.store, self.url = MemoryStore(name), f"memory://{name}"
        self._keys = [info.key for info in self._source.list("")]
        self.until(0.0)

    def until(self, now_s: float) -> None:
        """Let time pass."""
        self.now_s = now_s
        for key in self._keys:
            at = self._moment(key)
            if at <= now_s and key not in self.store._objects:
                self.store._objects[key] = (self._source._objects[key][0], at)

    def _moment(self, key: str) -> float:
        folder = key.partition("/")[0] + "/"
        if folder in (keys.LOG, keys.UPDATES, keys.METRICS):
            return self._commit_s * (keys.number(key) + (folder != keys.METRICS))
        return 0.0 if key == keys.RUN or folder in (keys.LEASES, keys.TRACE) else self._commit_s * 10_000

    def observer(self) -> Observer:
        return Observer(self.url, clock=lambda: self.now_s, now=lambda: self.now_s)


@pytest.fixture(scope="module")
def many() -> lambdaml.Run:
    """A run of 32 workers and 30 commits."""
    return train(Tiny, args={"samples": 256}, workers=32, steps=30, snapshot_every=10, engine="inline")


def watched(shown: Shown, seconds: int) -> list[Seen]:
    """What an observer sees, second by second."""
    observer, seen = shown.observer(), []
    for second in range(seconds):
        shown.until(float(second))
        seen.append(observer.look())
    return seen


def test_watching_32_workers_takes_a_hundredth_of_their_requests_or_one_in_two_seconds(many: lambdaml.Run) -> None:
    seen = watched(Shown(many, commit_s=20.0), 640)
    for second, now in enumerate(seen):
        if second > 320:
            assert now.asked.total <= max(second / 2, now.reading.total / 100)
    assert [now.state for now in seen[-30:]].count("steps") > 15
    assert seen[-1].version == 30


def test_a_look_shows_progress_curves_and_holders(many: lambdaml.Run) -> None:
    seen = watched(Shown(many, commit_s=10.0), 259)[-1]
    assert (seen.state, seen.commits) == ("running", seen.version)
    assert 23 <= seen.version <= 25, "it was looked at in the last 20 s"
    assert seen.progress == pytest.approx(seen.version / 30)
    assert seen.left_s == pytest.approx(50, rel=0.5)
    assert seen.usual_s == pytest.approx(10, rel=0.3)
    assert [version for version, _ in seen.metrics["accuracy"]] == [10, 20]
    assert len(seen.loss) >= 15
    assert {worker.seq for worker in seen.workers} == {seen.version - 1}
    assert all(worker.holder for worker in seen.workers)
    assert not seen.stalled


def test_an_observer_that_comes_late_reads_a_part_of_what_was_before(many: lambdaml.Run) -> None:
    shown = Shown(many, commit_s=1.0)
    shown.until(29.5)
    observer = shown.observer()
    seen = observer.look()
    assert seen.asked.total <= OPENING + SHARE * seen.reading.total + 2, "a look at the log takes two"
    assert (seen.version, len(seen.metrics["accuracy"])) == (29, 2)
    assert seen.left_s == pytest.approx(1.0, abs=0.5)
    shown.until(200.0)
    assert len(observer.look().loss) >= 20


def test_a_run_in_which_nothing_moves_is_said_to_stall_and_for_whom_it_waits(many: lambdaml.Run) -> None:
    shown = Shown(many, commit_s=2.0)
    shown.until(40.0)
    observer = shown.observer()
    observer.look()
    for number in range(32):
        if number != 3:
            shown.store.create(keys.update(number, 20), b"an update")
    stopped = shown._keys
    shown._keys = []
    for second in range(41, 200):
        shown.until(float(second))
        if second % 15 == 0:
            shown.store._objects[keys.lease(4, second)] = (Lease(4, second, "f", 30.0).pack(), shown.now_s)
        seen = observer.look()
    assert (seen.state, seen.stalled) == ("running", True), "somebody renews a lease"
    assert seen.quiet_s == pytest.approx(159, abs=1)
    assert [worker.worker for worker in seen.awaited] == [3]
    lease = Lease(3, 2, "another", 30.0)
    shown.store.create(keys.lease(3, 2), lease.pack())
    for second in range(200, 400):
        shown.until(float(second))
        seen = observer.look()
    assert (seen.awaited[0].holder, seen.awaited[0].generation) == ("another", 2)
    shown._keys = stopped
    shown.until(410.0)
    assert not [observer.look() for _ in range(3)][-1].awaited, "it goes on"


def test_a_run_that_nobody_works_on_has_stopped() -> None:
    left = broken_off(Tiny, workers=2, steps=8)
    name = secrets.token_hex(6)
    MemoryStore(name)._objects.update(left.store._objects)  # type: ignore[attr-defined]
    seen = Observer(f"memory://{name}").look()
    assert (seen.state, seen.over, seen.stalled) == ("stopped", False, False)


def test_what_functions_reported_is_complete_at_the_end(many: lambdaml.Run) -> None:
    observer = Observer(many.url)
    observer.look()
    seen = observer.finish()
    assert seen.over
    assert seen.reading.requests == sum((usage.reading for usage in many.usage()), start=type(seen.reading)()).requests
    assert set(seen.phases) == {"compute", "store", "wait"}
    assert seen.to_dict()["state"] == "steps"


def test_a_long_curve_is_thinned_to_means_of_neighbours_and_its_last_point() -> None:
    curve = condensed([(version, float(version)) for version in range(1000)])
    assert len(curve) <= SHOWN
    assert curve[-1] == (999, 999.0)
    assert curve[0][1] == pytest.approx(curve[0][0] / 2)
    assert condensed([(1, float("nan")), (2, 0.5)]) == ((2, 0.5),)
