"""I-Prof: devices it never saw, devices it knows, what is kept, and that it never fails a run."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lambdaml.cost.profiling.iprof import Device, IProf, SlopeModel, busy, home, learn
from lambdaml.cost.profiling.profile import Profile
from lambdaml.engines.resources import cores
from lambdaml.simulation.platform import Platform
from tests.cost.profiles import digits

LIMIT_MS, C0_MS = 3000.0, 100.0
DEVICES, COLD, REQUESTS = 40, 15, 20
BOUNDS = (8, 10_000)

ARM = Device.of(Platform.parse("lambda-arm:1769"))
X86 = Device.of(Platform.parse("lambda-x86:1769"))


class Maui:
    """The baseline that FLeet compares with: one line through all observations, whatever the device (MobiSys 2010)."""

    def __init__(self) -> None:
        self.observations: list[tuple[float, float]] = []

    def observe(self, size: float, cost: float) -> None:
        self.observations.append((size, cost))

    def batch(self) -> int:
        rows = np.array([(1.0, size) for size, _ in self.observations])
        c0, slope = np.linalg.lstsq(rows, np.array([cost for _, cost in self.observations]), rcond=None)[0]
        return batch(float(c0), float(slope))


def batch(c0: float, slope: float) -> int:
    """The largest size whose cost is expected to stay within the limit, within bounds."""
    size = (LIMIT_MS - c0) / slope if slope > 0 else BOUNDS[1]
    return int(min(max(size, BOUNDS[0]), BOUNDS[1]))


def phones(draw: np.random.Generator) -> list[tuple[str, list[float], float]]:
    """Synthetic devices (name, features, milliseconds a sample): memory, free memory, temperature and total clock;
    what the features do not tell is lognormal."""
    found = []
    for number in range(DEVICES):
        memory, free = draw.uniform(1, 8), draw.uniform(0.5, 3)
        warmth, clock = draw.uniform(2, 4.5), draw.uniform(4, 24)
        slope = 60 / clock * (1 + 0.1 * (warmth - 3)) * (1 + 0.3 / free) * math.exp(0.35 * draw.normal())
        found.append((f"phone {number}", [1.0, memory, free, warmth, clock], slope))
    return found


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_limits_are_kept_three_times_as_well_as_by_one_line_for_all(seed: int) -> None:
    """Check C4: the 90th percentile of |latency - limit| over unseen devices, MAUI's over I-Prof's."""
    draw = np.random.default_rng(seed)
    iprof, maui = SlopeModel(C0_MS, [0.0] * 5), Maui()
    late: dict[str, list[float]] = {"iprof": [], "maui": []}

    def latency(slope: float, size: int) -> float:
        return C0_MS + slope * math.exp(0.08 * draw.normal()) * size

    devices = phones(draw)
    for _, features, slope in devices[:COLD]:
        for size in draw.integers(56, 1504, REQUESTS).tolist():
            took = latency(slope, size)
            iprof.observe(features, size, took)
            maui.observe(size, took)
    for name, features, slope in devices[COLD:]:
        for _ in range(REQUESTS):
            size = maui.batch()
            took = latency(slope, size)
            maui.observe(size, took)
            late["maui"].append(abs(took - LIMIT_MS))
            size = batch(C0_MS, iprof.slope(name, features))
            took = latency(slope, size)
            iprof.observe(features, size, took)
            iprof.correct(name, features, size, took)
            late["iprof"].append(abs(took - LIMIT_MS))
    p90 = {name: float(np.quantile(values, 0.9)) for name, values in late.items()}
    assert p90["maui"] / p90["iprof"] >= 3, p90


def test_a_correction_ends_epsilon_from_the_observation() -> None:
    model = SlopeModel(10.0, [1.0, 0.0], epsilon=0.1)
    features = [1.0, 2.0]
    model.correct("a", features, size=5.0, cost=10.0 + 5.0 * 3.0)
    assert model.slope("a", features) == pytest.approx(3.0 - 0.1)
    model.correct("a", features, size=5.0, cost=10.0 + 5.0 * 2.95)
    assert model.slope("a", features) == pytest.approx(2.9), "an error within epsilon is none"


def test_an_aggressiveness_bounds_the_step() -> None:
    model = SlopeModel(0.0, [1.0, 0.0], epsilon=0.0, aggressiveness=0.1)
    model.correct("a", [1.0, 2.0], size=1.0, cost=9.0)
    assert model.personal["a"] == pytest.approx([1.1, 0.2])


def test_a_new_device_starts_from_least_squares_over_the_others() -> None:
    model = SlopeModel(0.0, [0.0, 0.0], epsilon=0.0)
    for x in (1.0, 2.0, 4.0):
        model.observe([1.0, x], size=2.0, cost=2.0 * (3.0 + 0.5 * x))
    assert model.slope("new", [1.0, 8.0]) == pytest.approx(7.0)
    model.correct("new", [1.0, 8.0], 1.0, 7.0)
    assert model.personal["new"] == pytest.approx([3.0, 0.5])


def test_where_observations_leave_it_open_the_prior_holds() -> None:
    iprof = IProf()
    assert iprof.slowdown(ARM) == iprof.slowdown(X86) == iprof.slowdown(Device.here(1)) == 1.0
    assert iprof.slowdown(replace(Device.here(1), contention=4.0)) == 4.0
    iprof.learn_run(X86, digits(), rows(digits(), 1.5))
    assert 1.0 < iprof.slowdown(ARM) < 1.5, "what one platform showed is half believed of its sister"


def test_functions_that_wait_contend_less() -> None:
    here = cores()
    assert Device.here(4 * here).contention == 4.0
    assert Device.here(4 * here, busy=0.5).contention == 2.0
    assert Device.here(4 * here, busy=0.1).contention == 1.0
    trace = [{"compute_s": 0.2, "started_s": float(n), "committed_s": n + 0.9} for n in range(10)]
    assert busy([*trace, {"worker": 1}], functions=2) == pytest.approx(10 * 0.2 / (2 * 9.9))
    assert busy([], 2) == 1.0


def rows(profile: Profile, slowdown: float, count: int = 40, sigma: float = 0.0) -> list[dict[str, Any]]:
    """Of a trace on a device that is so slow."""
    draw = np.random.default_rng(3)
    nominal = profile.step_time.step_s
    return [
        {"samples": n, "compute_s": slowdown * nominal(n) * math.exp(sigma * draw.normal())}
        for n in draw.integers(20, 40, count).tolist()
    ]


@pytest.mark.parametrize("slowdown", [0.5, 1.7, 6.0])
def test_learning_from_a_run_moves_the_next_prediction_to_it(slowdown: float) -> None:
    profile, iprof = digits(), IProf()
    trace = [*rows(profile, slowdown, sigma=0.2), {"samples": 32, "compute_s": None}, {"samples": None}]
    trace[7]["compute_s"] *= 50  # a straggler is not the device
    assert iprof.learn_run(ARM, profile, trace) == 40
    assert iprof.knows(ARM) and not iprof.knows(X86)
    assert iprof.slowdown(ARM) == pytest.approx(slowdown, rel=0.15)
    assert profile.costs(slowdown=iprof.slowdown(ARM)).step_s == pytest.approx(
        slowdown * profile.costs().step_s, rel=0.15
    )


def test_the_speed_that_plans_know_of_is_not_learnt_again() -> None:
    iprof, profile = IProf(), digits()
    iprof.learn_run(ARM, profile, rows(profile, 4.0), speed=0.25)
    assert iprof.slowdown(ARM) == pytest.approx(1.0, abs=0.04)


def test_what_was_learnt_is_kept_for_profiles_of_the_same_machine(tmp_path: Path) -> None:
    profile = digits()
    assert learn(profile, rows(profile, 2.0), ARM, folder=tmp_path / "new") == 40
    again = IProf.open(profile, tmp_path / "new")
    assert (again.runs, again.slowdown(ARM)) == (1, pytest.approx(2.0, abs=0.04))
    elsewhere = replace(profile, machine=replace(profile.machine, processor="another"))
    assert IProf.open(elsewhere, tmp_path / "new").runs == 0


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema_version": 9}', '{"schema_version": 1, "observations": 3}'])
def test_a_file_that_cannot_be_read_is_as_none(text: str, tmp_path: Path) -> None:
    profile = digits()
    learn(profile, rows(profile, 2.0), ARM, folder=tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_text(text)
    assert IProf.open(profile, tmp_path).slowdown(ARM) == 1.0


def test_a_folder_that_cannot_be_written_fails_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    profile = digits()
    assert learn(profile, rows(profile, 2.0), ARM, folder=tmp_path / "file") == 0
    assert learn(profile, [{"samples": "many", "compute_s": "long"}], ARM, folder=tmp_path) == 0


def test_the_folder_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LAMBDAML_HOME", str(tmp_path))
    assert home() == tmp_path
    monkeypatch.delenv("LAMBDAML_HOME")
    assert home() == Path.home() / ".cache" / "lambdaml"
