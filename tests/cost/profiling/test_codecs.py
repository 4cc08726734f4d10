"""Which codecs a profile measures, on which vectors, and what larger ones would take."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest

from lambdaml.codecs import CODECS, DISPLACEMENT, Codec, Layout
from lambdaml.codecs.dense import Bf16
from lambdaml.cost.profiling.bench import Bench
from lambdaml.cost.profiling.codec_bench import LARGE_NUMBERS, time_codecs
from lambdaml.cost.profiling.codecs import CodecTrial, codec_trials
from lambdaml.cost.profiling.facts import CodecFacts, LargeUpdate
from lambdaml.errors import SettingsError
from lambdaml.options import RunOptions
from lambdaml.training.asked import resolve_job, settings_for
from tests.lambdaml.lab import Tiny

SINGLE, DOUBLE = Layout(((20, 50),)), Layout(((20, 50),), "float64")


class Mover(Bf16):
    """A codec that looks at the parameters and at how far they moved, and notes it."""

    needs = frozenset({DISPLACEMENT})
    seen: ClassVar[list[tuple[Any, Any]]] = []

    def encode(self, vector: Any, layout: Layout, context: Any) -> Any:
        Mover.seen.append((vector.copy(), context.weights()))
        return super().encode(vector, layout, context)


@pytest.fixture
def mover(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(CODECS.factories, "mover", f"{__name__}:Mover")
    Mover.seen.clear()
    return "mover"


def bench(now: list[float] | None = None) -> Bench:
    job = Tiny()
    clock = (lambda: 0.0) if now is None else (lambda: now[0])
    return Bench(job, settings_for(job, resolve_job(job, {})[0], RunOptions(workers=1, steps=10)), "cpu", clock)


def _carries(codec: Codec, layout: Layout) -> bool:
    return not codec.needs and not codec.misfit(layout)


def test_codecs_are_measured_with_whole_vectors_where_pilots_send_fragments() -> None:
    trials = codec_trials(SINGLE, ["local:20,fragments=4"])
    assert {trial.algorithm for trial in trials} == {"gradient"}
    both = codec_trials(SINGLE, ["local:20,fragments=4", "local:20"], ["fp32", "significant:0.01"])
    assert [(trial.codec, trial.algorithm) for trial in both] == [
        ("fp32", "gradient"),
        ("significant:0.01", "local:20"),
    ]


def test_all_that_fit_are_measured_plain_updates_first_and_then_what_needs_no_pilot() -> None:
    trials = codec_trials(SINGLE, ["gradient"])
    names, made = [trial.codec for trial in trials], [CODECS.make(trial.codec) for trial in trials]
    assert set(names) == {spec for spec in CODECS.variants() if _carries(CODECS.make(spec), SINGLE)}
    assert names[0] == "fp32"
    order = [(codec.feedback, codec.expected_bytes(SINGLE)) for codec in made[1:]]
    assert order == sorted(order) and {feedback for feedback, _ in order} == {False, True}
    assert [trial.needed for trial in trials] == [not codec.feedback for codec in made]


def test_what_cannot_carry_the_jobs_vectors_is_not_measured() -> None:
    names = {trial.codec for trial in codec_trials(DOUBLE, ["gradient"])}
    assert "bf16" not in names and {"fp32", "topk:0.01"} <= names
    with pytest.raises(SettingsError, match="codec 'bf16' carries float32 numbers"):
        codec_trials(DOUBLE, ["gradient"], ["bf16"])


def test_exactly_those_that_are_asked_for_are_measured_beside_plain_updates() -> None:
    asked = codec_trials(SINGLE, ["gradient"], ["topk:0.5", "bf16"])
    assert [(trial.codec, trial.needed) for trial in asked] == [("fp32", True), ("bf16", True), ("topk:0.5", True)]
    with pytest.raises(SettingsError, match="there is no codec 'fp61'"):
        codec_trials(SINGLE, ["gradient"], ["fp61"])


def test_a_codec_is_measured_with_an_algorithm_that_gives_what_it_needs(mover: str) -> None:
    assert mover not in [trial.codec for trial in codec_trials(SINGLE, ["gradient"])]
    (trial,) = [trial for trial in codec_trials(SINGLE, ["gradient", "local:2"]) if trial.codec == mover]
    assert trial.algorithm == "local:2"
    with pytest.raises(SettingsError, match="codec 'mover' needs displacements"):
        codec_trials(SINGLE, ["gradient"], [mover])


def test_a_codec_encodes_what_the_algorithm_computes_and_knows_the_parameters(mover: str) -> None:
    made = bench()
    trials = [CodecTrial("fp32", "gradient", True), CodecTrial(mover, "local:2", True)]
    found, _ = time_codecs(made, trials, 0.0, lambda share: None)
    assert [facts.update_bytes for facts in found.values()] == [4 * 21, 2 * 21]
    vector, weights = Mover.seen[0]
    local = made.computing("local:2")
    local.step()
    assert np.array_equal(weights, local.replica.local.values())
    assert np.array_equal(vector, local.updates(1)[0].body["gradient"])


def test_what_is_not_needed_is_left_out_when_the_time_is_over() -> None:
    trials = [CodecTrial(codec, "gradient", codec == "fp32") for codec in ("fp32", "topk:0.1")]
    found, _ = time_codecs(bench(), trials, 0.0, lambda share: None)
    assert list(found) == ["fp32"]


def test_a_small_job_is_timed_with_a_large_vector_too() -> None:
    found, _ = time_codecs(bench(), [CodecTrial("fp32", "gradient", True)], 0.0, lambda share: None)
    large = found["fp32"].large
    assert large is not None and large.times == -(-LARGE_NUMBERS // 21)


def test_larger_updates_take_what_their_numbers_take_and_no_more() -> None:
    """A millisecond of which a hundredth is for the numbers."""
    facts = CodecFacts(1000, 1e-3, 2e-3, 3e-3, LargeUpdate(101, 2e-3, 1e-3, 3.5e-3))
    assert facts.grown(1.0) == CodecFacts(1000, 1e-3, 2e-3, 3e-3)
    ten = facts.grown(11.0)
    assert (ten.update_bytes, ten.encode_s) == (11_000, pytest.approx(1.1e-3))
    assert ten.read_s == 2e-3, "a time that fell was not for the numbers"
    assert facts.grown(101.0).apply_s == pytest.approx(3.5e-3)
    assert facts.grown(1e-3).encode_s > 0
    alone = CodecFacts(1000, 1e-3, 2e-3, 3e-3)
    assert alone.grown(10.0) == CodecFacts(10_000, pytest.approx(1e-2), pytest.approx(2e-2), pytest.approx(3e-2))
