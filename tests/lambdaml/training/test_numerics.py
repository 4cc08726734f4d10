"""Numerics classes: what a process computes in is known, recorded, and compared where bits are promised."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lambdaml
from lambdaml.errors import OtherNumerics, RunFailed, SettingsError
from lambdaml.log.numerics import Numerics
from lambdaml.run import Run
from lambdaml.settings import Settings
from lambdaml.storage import copy
from lambdaml.training import numerics
from lambdaml.training.numerics import current_class, differences, norm
from lambdaml.training.replica import Replica
from tests.lambdaml.lab import Tiny, broken_off, memory, train

ROOT = Path(__file__).resolve().parents[3]
DIGITS = f"{ROOT / 'examples' / 'digits.py'}:Digits"
TINY = f"{Path(__file__).parents[1] / 'lab.py'}:Tiny"


def python(code: str, **environment: str) -> Any:
    """What a fresh Python prints as JSON, with none of the variables set but these."""
    clean = {name: value for name, value in os.environ.items() if name not in numerics.VARIABLES}
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean | environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def own_environment() -> Iterator[None]:
    """Puts back what `prepare` changes."""
    kept = {name: os.environ.get(name) for name in numerics.VARIABLES}
    yield
    for name, value in kept.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


def other(**changes: str) -> Numerics:
    """This process's class, but for these."""
    here = current_class()
    return replace(here, decides=here.decides | changes)


def of_class(run: lambdaml.Run, found: Numerics | None) -> Run:
    """A copy of the run whose run.json says that its functions computed in this class."""
    store = memory()
    copy(run.store, store)
    store.delete(["run.json"])
    store.create("run.json", run.settings.model_copy(update={"numerics": found}).dump())
    return Run(store)


@pytest.fixture(scope="module")
def run() -> lambdaml.Run:
    return train(workers=2, steps=6, snapshot_every=3)


@pytest.fixture(scope="module")
def half() -> lambdaml.Run:
    """Broken off."""
    return broken_off(workers=2, steps=6, snapshot_every=2)


# The class


def test_tests_compute_reproducibly_whatever_the_environment_that_they_are_run_in() -> None:
    assert current_class().mode == "reproducible"
    assert {name: os.environ[name] for name in numerics.environment("reproducible")} == numerics.environment(
        "reproducible"
    )


IN_CLASS = (
    "import json; from dataclasses import asdict; from lambdaml.training.numerics import current_class, prepare\n"
)
SAY = "\nprint(json.dumps(asdict(current_class())))"


def test_what_is_set_before_torch_computes_counts_whatever_stood_there() -> None:
    outer = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "SSE4_2"}
    found = Numerics(**python(f"{IN_CLASS}import numpy, torch; prepare('reproducible'){SAY}", **outer))
    assert (found.mode, found.decides) == (current_class().mode, current_class().decides)


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="only MKL has a mode to be asked for")
def test_what_is_set_after_torch_has_computed_does_not_count_and_is_not_claimed() -> None:
    late = "import torch; torch.ones(9, 9) @ torch.ones(9, 9); prepare('reproducible')"
    found = python(f"{IN_CLASS}{late}{SAY}", ATEN_CPU_CAPABILITY="default")
    assert found["mode"] == "fast"
    assert "OFF" in found["decides"]["MKL"]
    assert found["decides"]["ATen"] == "DEFAULT"


def test_compatible_is_kept_where_somebody_set_it(own_environment: None) -> None:
    os.environ["MKL_CBWR"] = "COMPATIBLE"
    numerics.prepare("reproducible")
    assert os.environ["MKL_CBWR"] == "COMPATIBLE"


def test_fast_takes_the_limits_away_and_leaves_other_values_alone(own_environment: None) -> None:
    os.environ["OPENBLAS_CORETYPE"] = "Zen"
    numerics.prepare("fast")
    assert {name for name in numerics.VARIABLES if name in os.environ} == {"OPENBLAS_CORETYPE"}


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(SettingsError, match="reproducible or fast"):
        lambdaml.train(TINY, memory(), numerics="exact")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", "sse2 avx2 avx512f", {"MKL_CBWR": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}),
        ("x86_64", "sse2", {"MKL_CBWR": "COMPATIBLE", "ATEN_CPU_CAPABILITY": "default"}),
        ("aarch64", "asimd", {"ATEN_CPU_CAPABILITY": "default", "OPENBLAS_CORETYPE": "ARMV8"}),
    ],
)
def test_every_machine_has_a_reproducible_environment(
    monkeypatch: pytest.MonkeyPatch, machine: str, flags: str, expected: dict[str, str]
) -> None:
    monkeypatch.setattr(numerics.platform, "machine", lambda: machine)
    monkeypatch.setattr(numerics, "_cpu", lambda: {"flags": flags})
    monkeypatch.delenv("MKL_CBWR", raising=False)
    found = numerics.environment("reproducible")
    assert expected.items() <= found.items()
    assert ("MKL_CBWR" in found) == (machine == "x86_64")


def test_bits_do_not_depend_on_where_arrays_lie() -> None:
    code = """
def at(source, offset):
    room = torch.empty(source.numel() + 64)
    start = -(room.data_ptr() // 4) % 16 + offset
    return room[start : start + source.numel()].view(source.shape).copy_(source)
a, b = torch.randn(33, 100), torch.randn(100, 17)
found = {
    (at(a, i) @ at(b, j)).numpy().tobytes() + torch.dot(at(a[0], i), at(b[:, 0], j)).numpy().tobytes()
    for i in range(16) for j in range(16)
}
print(len(found))"""
    prelude = "from lambdaml.training.numerics import prepare; prepare('reproducible'); import torch; torch.set_num_threads(1)"
    assert python(f"{prelude}; torch.manual_seed(0){code}") == 1


# Runs


def test_a_run_records_the_class_that_its_functions_compute_in(run: lambdaml.Run) -> None:
    assert run.settings.numerics == current_class()
    assert Settings.load(run.settings.dump()).numerics == current_class()


@pytest.mark.parametrize("mode", ["reproducible", "fast"])
def test_the_command_and_its_functions_compute_in_the_mode_asked_for(tmp_path: Path, mode: str) -> None:
    arguments = [
        "train",
        TINY,
        "--store",
        str(tmp_path),
        "--workers",
        "2",
        "--steps",
        "2",
        "--numerics",
        mode,
        "--json",
    ]
    python(f"import sys; from lambdaml.cli import main; sys.argv[1:] = {arguments!r}; main()")
    run = Run(str(tmp_path))
    found = run.settings.numerics
    assert found is not None
    assert found.mode == mode
    if torch.backends.mkl.is_available():
        assert ("OFF" in found.decides["MKL"]) == (mode == "fast")
    assert run.verify().ok


def test_a_script_in_which_torch_has_computed_has_functions_that_are_reproducible(tmp_path: Path) -> None:
    code = f"""
import torch
torch.ones(9, 9) @ torch.ones(9, 9)
import lambdaml
if __name__ == "__main__":
    lambdaml.train({TINY!r}, {str(tmp_path)!r}, workers=2, steps=2)
    print(0)"""
    python(code)
    assert Run(str(tmp_path)).settings.numerics == current_class()


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="only MKL has a mode to be asked for")
def test_a_notebook_in_which_torch_has_computed_trains_and_does_not_claim_bits() -> None:
    code = f"""
import json, warnings, torch
torch.ones(9, 9) @ torch.ones(9, 9)
import lambdaml
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    lambdaml.train({TINY!r}, "memory://notebook", workers=2, steps=4, engine="inline")
run = lambdaml.Run("memory://notebook")
said = [str(w.message) for w in said if "reproducible" in str(w.message)]
print(json.dumps([run.settings.numerics.mode, len(said), run.verify().ok, run.replay().version]))"""
    assert python(code) == ["fast", 1, True, 4]


@pytest.mark.parametrize(
    ("found", "named"),
    [
        ({"torch": "2.1.0"}, "torch is"),
        ({"MKL": "2020.1 AVX2"}, "MKL is"),
        ({"machine": "aarch64"}, "machine is"),
        ({"ATen": "AVX512"}, "ATen is"),
    ],
)
def test_a_function_of_another_class_is_refused_by_what_differs(
    half: lambdaml.Run, found: dict[str, str], named: str
) -> None:
    stopped = of_class(half, other(**found))
    with pytest.raises(OtherNumerics, match=named) as caught:
        lambdaml.resume(stopped.store)
    assert next(iter(found.values())) in str(caught.value)
    assert "train --from" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_of_another_class_can_be_gone_on_from_in_a_new_one(run: lambdaml.Run) -> None:
    old = of_class(run, other(torch="2.1.0"))
    new = train(Tiny, workers=2, steps=2, init_from=f"{old.url}@4")
    assert new.settings.numerics == current_class()
    assert new.verify().ok


def test_notes_do_not_keep_a_function_away(run: lambdaml.Run) -> None:
    assert differences(replace(current_class(), noted={"glibc": "2.17"})) == ""


def test_nothing_is_compared_where_nothing_was_recorded_or_promised(run: lambdaml.Run) -> None:
    for found in (None, replace(other(torch="2.1.0"), mode="fast")):
        numerics.demand(found)
        assert of_class(run, found).replay(4).version == 4


def test_a_replay_in_another_class_is_refused_but_its_weights_can_be_had(run: lambdaml.Run) -> None:
    there = of_class(run, other(torch="2.1.0"))
    with pytest.raises(OtherNumerics, match=r"torch is .* here and 2\.1\.0 in the run"):
        there.replay(4)
    assert there.model(4) is not None


def test_verify_in_another_class_proves_what_it_can(run: lambdaml.Run) -> None:
    report = of_class(run, other(torch="2.1.0")).verify()
    assert report.ok
    assert report.digests > 0


@pytest.mark.parametrize("mode", ["reproducible", "fast"])
def test_verify_in_another_class_reports_no_false_faults(
    run: lambdaml.Run, monkeypatch: pytest.MonkeyPatch, mode: Any
) -> None:
    """As if the optimizer rounded differently here."""
    move = Replica._move

    def otherwise(self: Replica, absent: set[int]) -> None:
        move(self, absent)
        with torch.no_grad():
            next(self.model.parameters()).mul_(1 + 1e-6)

    monkeypatch.setattr(Replica, "_move", otherwise)
    report = of_class(run, replace(other(torch="2.1.0"), mode=mode)).verify()
    assert report.faults == []
    assert "torch is" in report.unproven
    assert not report.ok
    assert of_class(run, current_class()).verify().faults


# Norms, and reasons in the log


def test_a_norm_is_right_and_leaves_its_vector_alone() -> None:
    stream = np.random.default_rng(0)
    for size in [*range(20), 1000, 4097]:
        for dtype in (np.float32, np.float64):
            vector = stream.standard_normal(size).astype(dtype)
            kept = vector.copy()
            assert norm(vector) == pytest.approx(math.sqrt(math.fsum(float(x) ** 2 for x in vector)), rel=1e-12)
            np.testing.assert_array_equal(vector, kept)


def test_a_norm_is_the_sum_of_a_fixed_tree() -> None:
    def tree(values: list[float]) -> float:
        half = len(values) // 2
        if not half:
            return values[0]
        low = [a + b for a, b in zip(values[:half], values[len(values) - half :], strict=True)]
        return tree(low + values[half : len(values) - half])

    for size in (1, 2, 3, 7, 100, 1001):
        vector = np.random.default_rng(size).standard_normal(size).astype(np.float32)
        assert norm(vector) == math.sqrt(tree([float(x) * float(x) for x in vector]))


def test_a_reason_holds_no_number_that_a_cpu_has_a_say_in() -> None:
    place = memory()
    with pytest.raises(RunFailed):
        lambdaml.train(Tiny, place, workers=2, steps=2, max_update_norm=1e-9, max_rejected=2)
    reasons = {entry.reason for commit in Run(place).log() for entry in commit.refused}
    assert reasons == {"gradient has a norm above the limit"}


# The printed hashes


def printed() -> Mapping[str, dict[str, str]]:
    """docs/promises.md: by class, the hash of each example."""
    tables: dict[str, dict[str, str]] = {}
    title = ""
    for line in (ROOT / "docs" / "promises.md").read_text().splitlines():
        if line.startswith(("reproducible: ", "`reproducible: ")):
            title = line.strip("`")
        elif found := re.fullmatch(r"\| `examples/(\S+)` \| `([0-9a-f]{64})` \|", line):
            tables.setdefault(title, {})[found[1]] = found[2]
    return tables


def test_the_digits_have_the_bits_that_the_promises_print() -> None:
    """In a class that has been seen; in another, whatever the number of functions and the place of the run."""
    hashes = set()
    for functions in (1, 2):
        found = lambdaml.train(DIGITS, memory(), workers=2, functions=functions, steps=30, seed=7)
        hashes.add(found.model_sha256)
    assert all(
        table.keys() == {"digits.py:Digits", "cnn.py:DigitsCNN", "charlm.py:CharLM"} for table in printed().values()
    )
    assert printed()
    assert hashes == {printed().get(str(current_class()), {}).get("digits.py:Digits", *list(hashes)[:1])}
