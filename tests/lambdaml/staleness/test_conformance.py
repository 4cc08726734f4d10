"""What every staleness rule must do. A new one takes one file and one line in `RULES`: see `tests/parts/log.py`.

pytest -p mine --rule mine:3 tests/lambdaml/staleness/test_conformance.py    # one of your own, in mine.py
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import lambdaml
from lambdaml.log.state import LogState
from lambdaml.staleness import RULES
from lambdaml.traces import Trace
from tests.lambdaml.lab import Tiny, broken_off, model_bytes
from tests.lambdaml.staleness.test_staleness import OBSERVING, STATEFUL, entry_of

WEIGHING = ["constant", "inverse", "sqrt", "polynomial", "hinge", "exponential:boost=all", "adaptive", "log"]


@pytest.fixture(scope="module", params=[*WEIGHING, *STATEFUL, *OBSERVING])
def rule(request: pytest.FixtureRequest) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RULES.factories, "log", "tests.parts.log:Logarithmic")
        yield request.param


def test_a_fresh_update_counts_in_full_and_weights_never_grow(rule: str) -> None:
    made = RULES.make(rule)
    weights = [made.judge(entry_of(tau, 100 - tau), LogState(4, 9)) or 0.0 for tau in range(40)]
    assert weights == sorted(weights, reverse=True)
    assert made.judge(entry_of(0, 0), LogState(4, 9)) == 1.0


def test_its_word_depends_on_nothing_but_the_update_and_the_log(rule: str) -> None:
    log_state = LogState(4, 9)
    log_state.staleness, log_state.labels = {0: 50, 3: 40, 9: 10}, [30, 70]
    entries = [entry_of(tau, 100 - tau, labels=(tau, 8)) for tau in range(12)]
    one, two = ([made.judge(entry, log_state) for entry in entries] for made in (RULES.make(rule), RULES.make(rule)))
    assert one == two


def test_what_it_makes_of_gradients_is_the_same_from_its_saved_state(rule: str) -> None:
    whole, stream = RULES.make(rule).transform(2, 8), np.random.RandomState(0)
    for version in range(8 if whole else 0):
        resumed = RULES.make(rule).transform(2, 8)
        assert whole is not None and resumed is not None
        resumed.load({name: array.copy() for name, array in whole.state().items()})
        parameters, gradient = stream.randn(2, 4).astype(np.float32)
        entry = entry_of(min(version, 1), version - min(version, 1), worker=version % 2)
        results = []
        for transform in (whole, resumed):
            transform.begin(version, parameters.copy)
            terms, divisor = transform.terms([entry], [gradient.copy()], 1.0, parameters.copy)
            results.append((divisor, [(array.tolist(), weight) for array, weight in terms]))
        assert results[0] == results[1]


def test_every_rule_of_ours_is_tried_here() -> None:
    assert {rule.partition(":")[0] for rule in [*WEIGHING, *STATEFUL, *OBSERVING]} == {*RULES.factories, "log"}


def test_a_run_that_was_broken_off_goes_on_with_the_bits_of_its_log(rule: str) -> None:
    """`verify` replays from snapshot 0 without any interruption: digests, snapshots and the result must agree."""
    run = broken_off(at=14, workers=3, steps=10, schedule="asp", functions=3, staleness=rule, snapshot_every=2)
    assert lambdaml.resume(run.store, functions=2).stop == "steps"
    report = run.verify()
    assert report.faults == []
    assert report.digests > 0 and report.snapshots >= 4
    assert max(entry.staleness for commit in run.log() for entry in commit.applied) > 0
    replay = lambdaml.replay_trace(Trace.of(run), Tiny)
    assert replay.state.dump_model() == model_bytes(run)
    assert replay.trace.rows == Trace.of(run).rows
