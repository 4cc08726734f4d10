"""Whole runs on Lambda: real functions, in AWS's emulator, over a real S3 server, killed, repeated and refused.

With LAMBDAML_TEST_LAMBDA (the name of a function) and LAMBDAML_TEST_STORE (an s3:// URL), both in the AWS account of the
environment, those of these tests run there that do not need to reach into the platform.
"""

import itertools
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import lambdaml
from lambdaml.cost.billing.prices import PriceBook
from lambdaml.cost.billing.tariff import Quantities, Tariff
from lambdaml.deploy.local_lambda import LocalLambda
from lambdaml.engines.accounts import total
from lambdaml.engines.invoke import Invoker
from lambdaml.engines.lambda_engine import LambdaEngine
from lambdaml.errors import JobFailed, LambdaMLError, RunCapped, RunFailed
from lambdaml.events import Event
from lambdaml.log import keys
from lambdaml.log.launches import Launch
from lambdaml.log.reader import RunReader
from lambdaml.storage import open_store
from tests.storage.servers import seaweedfs

ROOT = Path(__file__).resolve().parents[2]
DIGITS = f"{ROOT / 'examples' / 'digits.py'}:Digits"
TINY = f"{ROOT / 'tests' / 'lambdaml' / 'lab.py'}:Tiny"
AWS = os.environ.get("LAMBDAML_TEST_LAMBDA", "")
HERE = pytest.mark.skipif(bool(AWS), reason="reaches into the Lambda of this machine")
SHORT = {"workers": 4, "functions": 2, "epochs": 6, "snapshot_every": 12, "lease_s": 3.0}


@pytest.fixture(scope="module")
def bucket() -> Iterator[Callable[[], str]]:
    """Return a function that returns the URL of a fresh place."""
    count = itertools.count()
    if place := os.environ.get("LAMBDAML_TEST_STORE"):
        yield lambda: f"{place}/{os.getpid()}-{next(count)}"
        return
    with seaweedfs() as url:
        base, _, query = url.partition("?")
        yield lambda: f"{base}/{next(count)}?{query}"


@pytest.fixture(scope="module")
def platform() -> Iterator[LocalLambda | None]:
    if AWS:
        yield None
        return
    with LocalLambda(concurrency=10, seed=3, retry_after_s=4) as local:
        yield local


def options_of(platform: LocalLambda | None) -> dict[str, Any]:
    options = {"endpoint_url": platform.url} if platform else {"function": AWS}
    return {"engine": "lambda", "engine_options": options}


@pytest.fixture(scope="module")
def digits_bits(tmp_path_factory: pytest.TempPathFactory) -> str | None:
    """Return the digest of what the same run gives on the engine `local`."""
    return lambdaml.train(DIGITS, f"file://{tmp_path_factory.mktemp('local')}/run", **SHORT).model_sha256


class Gone(BaseException):
    """Ends a launcher at once, as if it had been killed."""


def silent(platform: LocalLambda | None, within_s: float = 20.0) -> bool:
    """Whether no function runs any more."""
    end = time.monotonic() + within_s
    while platform is not None and platform.stats()["running"]:
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def test_a_run_has_the_bits_of_local_processes_and_its_bill_those_of_the_reports(
    bucket: Callable[[], str], platform: LocalLambda | None, digits_bits: str | None
) -> None:
    before = len(platform.reports()) if platform else 0
    done = lambdaml.train(DIGITS, bucket(), **SHORT, **options_of(platform))
    assert done.model_sha256 == digits_bits
    assert silent(platform)
    lambdaml.Run(done.run).verify()
    usage = [each for each in RunReader(done.run).usage() if not each.launcher]
    assert all(each.complete for each in usage)
    if platform is not None:
        reports = platform.reports()[before:]
        assert len(usage) == len(reports)
        assert sum(each.seconds for each in usage) == pytest.approx(sum(r.billed_ms for r in reports) / 1000, rel=0.01)


@HERE
def test_functions_that_live_shortly_are_killed_and_left_alone_give_the_same_bits(
    bucket: Callable[[], str], platform: LocalLambda, digits_bits: str | None
) -> None:
    """Every function is replaced five times and more, some are killed, and the launcher dies right after the start."""
    run = f"{bucket()}&latency=50ms"
    launcher = start(run, platform, "--lifetime", "2.5", "--lease", "2")
    store = open_store(run)
    wait_for(lambda: store.head(keys.log(3)))
    launcher.kill()
    launcher.wait()
    for commit in (12, 30):
        wait_for(lambda commit=commit: store.head(keys.log(commit)))
        platform.kill_one()
    wait_for(lambda: store.head(keys.MODEL))
    assert silent(platform)
    lives: dict[str, int] = {}
    for info in store.list(keys.LAUNCHES):
        if "/lives/" in info.key:
            lives[info.key.split("/")[3]] = lives.get(info.key.split("/")[3], 0) + 1
    assert min(lives.values()) > 5, lives
    lambdaml.Run(run).verify(deep=True)
    found = lambdaml.resume(run, engine="local")  # evaluates what nobody has
    assert found.model_sha256 == digits_bits


def start(run: str, platform: LocalLambda, *options: str) -> subprocess.Popen[bytes]:
    """Start the run `SHORT` in a process of its own."""
    given = ["--workers", "4", "--functions", "2", "--epochs", "6", "--snapshot-every", "12", "--lease", "3"]
    given += ["--engine", "lambda", "--endpoint-url", platform.url, *options]
    return subprocess.Popen(
        [sys.executable, "-m", "lambdaml.cli", "train", DIGITS, "--store", run, *given],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def wait_for(condition: Callable[[], Any], within_s: float = 90.0) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


@HERE
def test_some_invocations_are_repeated_fail_or_are_refused_and_nothing_is_lost(
    bucket: Callable[[], str], platform: LocalLambda
) -> None:
    place = bucket()
    options = {"workers": 32, "functions": 8, "schedule": "asp", "steps": 30, "lease_s": 3.0, "lifetime_s": 2.0}
    platform.shares.update(duplicates=0.02, failures=0.02, throttles=0.02)
    try:
        done = lambdaml.train(TINY, f"{place}&latency=20ms", **options, **options_of(platform))
        assert silent(platform)
    finally:
        platform.shares.update(duplicates=0.0, failures=0.0, throttles=0.0)
    assert done.updates == 32 * 30
    assert done.fates["applied"] == done.updates
    lambdaml.Run(place).verify()


def test_an_error_of_the_job_ends_the_run_and_all_functions(
    bucket: Callable[[], str], platform: LocalLambda | None
) -> None:
    with pytest.raises(JobFailed, match="on purpose"):
        lambdaml.train(
            f"{ROOT / 'tests' / 'deploy' / 'breaking.py'}:Breaking", bucket(), **SHORT, **options_of(platform)
        )
    assert silent(platform)


def test_a_cap_makes_all_functions_leave_and_the_run_goes_on_later(
    bucket: Callable[[], str], platform: LocalLambda | None, digits_bits: str | None
) -> None:
    run = bucket()

    def cap(spent: Any) -> str | None:
        return "enough" if spent.commits > 5 else None

    with pytest.raises(RunCapped, match="enough"):
        lambdaml.train(DIGITS, f"{run}&latency=80ms", **SHORT, cap=cap, **options_of(platform))
    assert silent(platform)
    assert lambdaml.resume(run, functions=2, **options_of(platform)).model_sha256 == digits_bits


@HERE
def test_functions_keep_a_cap_though_the_launcher_was_killed(
    bucket: Callable[[], str], platform: LocalLambda, digits_bits: str | None
) -> None:
    run, budget_usd, begun = bucket(), 0.002, len(platform.reports())
    store, prices = open_store(run), ["--as", "lambda-arm:1769", "--store-as", "s3-standard"]
    launcher = start(f"{run}&latency=150ms", platform, "--budget", str(budget_usd), *prices)
    wait_for(lambda: any(store.list(keys.TRACE)))  # before, it may have claimed lives that it has not invoked
    launcher.kill()
    launcher.wait()
    launch, _ = Launch.newest(store) or pytest.fail("there is no launch")
    wait_for(launch.over)
    assert silent(platform)
    found = lambdaml.Run(run).status()
    assert found.state == "stopped" and found.progress < 1
    assert re.fullmatch(r"one more round would bring it to \$0\.00\d+ of \$0\.002000", found.reason)
    used = [each for each in RunReader(run).usage() if not each.launcher]
    billed_s = sum(each.billed_ms for each in platform.reports()[begun:]) / 1000
    assert sum(each.seconds for each in used if each.complete) == pytest.approx(billed_s, abs=1.5), "but for the survey"
    tariff = Tariff(PriceBook.load(), "s3-standard", "lambda-arm:1769")
    assert tariff.bill(Quantities([each.seconds for each in used], total(used).requests)).usd < budget_usd
    done = lambdaml.resume(run, functions=2, cap=lambdaml.Caps(1.0, tariff=tariff), **options_of(platform))
    assert done.model_sha256 == digits_bits


@HERE
def test_snapshots_are_evaluated_though_the_launcher_is_gone(bucket: Callable[[], str], platform: LocalLambda) -> None:
    run = f"{bucket()}&latency=30ms"
    seen: list[Event] = []

    def forget(event: Event) -> None:
        seen.append(event)
        if event.event == "commit":
            raise Gone

    leave = Launch.leave
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Gone):
        patch.setattr(Launch, "leave", lambda launch, reason: None)  # as if it had been killed
        patch.setattr("lambdaml.engines.lambda_engine._Following._wait", lambda following, seconds: None)
        lambdaml.train(DIGITS, run, **{**SHORT, "epochs": 20}, on_event=forget, **options_of(platform))
    assert Launch.leave is leave
    store = open_store(run)
    wait_for(lambda: any(store.list(keys.METRICS)))
    launch, _ = Launch.newest(store) or pytest.fail("there is no launch")
    launch.leave()
    assert silent(platform)


@HERE
def test_a_run_whose_functions_all_died_goes_on_when_it_is_kept(
    bucket: Callable[[], str], digits_bits: str | None
) -> None:
    """Without its launcher, as a schedule would do it; Lambda's own retries come too late to matter."""
    run = f"{bucket()}&latency=20ms"
    with LocalLambda(concurrency=8, retry_after_s=600) as platform:

        def die(event: Event) -> None:
            if event.event == "commit":
                while platform.kill_one():
                    time.sleep(0.05)
                raise Gone

        with pytest.MonkeyPatch.context() as patch, pytest.raises(Gone):
            patch.setattr(Launch, "leave", lambda launch, reason: None)
            patch.setattr("lambdaml.engines.lambda_engine._Following._wait", lambda following, seconds: None)
            lambdaml.train(DIGITS, run, **SHORT, on_event=die, **options_of(platform))
        invoker, store = Invoker(platform.function, endpoint_url=platform.url), open_store(run)
        wait_for(lambda: invoker.ask({"do": "keep", "run": run})["started"] == 2)
        assert invoker.ask({"do": "keep", "run": run}) == {"started": 0}, "once is enough"
        wait_for(lambda: store.head(keys.MODEL))
        assert silent(platform)
    assert lambdaml.resume(run, engine="local").model_sha256 == digits_bits


def refused(platform: LocalLambda | None, bucket: Callable[[], str], *, job: str = DIGITS, **options: Any) -> str:
    """The message of a run that is refused before it begins, with the exit code of a mistake."""
    given = options_of(platform)
    given["engine_options"] = {**given["engine_options"], **options}
    run = bucket()
    with pytest.raises(LambdaMLError) as caught:
        lambdaml.train(job, run, **SHORT, **given)
    assert caught.value.exit_code == 2
    assert open_store(run).head(keys.RUN) is None, "nothing was begun"
    assert silent(platform)
    return str(caught.value)


def test_a_function_that_does_not_exist(bucket: Callable[[], str], platform: LocalLambda | None) -> None:
    assert "'other' in us-east-1 does not exist" in refused(platform, bucket, function="other", region="us-east-1")


def test_a_function_of_another_memory(bucket: Callable[[], str], platform: LocalLambda | None) -> None:
    assert "has 1769 MB of memory, not 1024" in refused(platform, bucket, memory=1024)


def test_an_image_with_another_version_of_the_job(
    bucket: Callable[[], str], platform: LocalLambda | None, tmp_path: Path
) -> None:
    theirs = tmp_path / "examples"
    theirs.mkdir()
    shutil.copy(ROOT / "examples" / "digits.py", theirs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lambdaml.training.asked.fingerprint", lambda spec: "another one", raising=False)
        assert "has changed" in refused(platform, bucket)


def test_an_image_with_another_version_of_lambdaml(bucket: Callable[[], str], platform: LocalLambda | None) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lambdaml.engines.lambda_engine.__version__", "99.0")
        assert "the launcher 99.0: build its image again" in refused(platform, bucket)


@pytest.mark.parametrize("place", ["file:///tmp/nowhere", "memory://nowhere", "moto://bucket/run"])
def test_a_store_that_functions_in_the_cloud_cannot_reach(place: str) -> None:
    engine = LambdaEngine()
    store = open_store(place)
    with pytest.raises(lambdaml.UserError, match="cannot reach"):
        engine._demand_reachable(store.url)
    store.close()
    engine.close()


@HERE
def test_a_run_of_another_numerics_class(bucket: Callable[[], str], platform: LocalLambda) -> None:
    run = bucket()
    with pytest.raises(RunCapped):
        lambdaml.train(DIGITS, run, **SHORT, cap=lambda spent: "enough", engine="local")
    store = open_store(run)
    other = RunReader(store).settings.numerics
    assert other is not None
    other.decides["machine"] = "aarch64"
    engine = LambdaEngine(endpoint_url=platform.url)
    engine.start()
    with pytest.raises(lambdaml.UserError, match="aarch64"):
        engine.survey(store, RunReader(store).settings.job, other)
    engine.close()


@HERE
def test_a_function_that_dies_again_and_again_is_not_invoked_for_ever(bucket: Callable[[], str]) -> None:
    with LocalLambda(concurrency=4, memory_mb=200) as small, pytest.raises(lambdaml.UserError, match="failed"):
        lambdaml.train(DIGITS, bucket(), **SHORT, **options_of(small))


@HERE
def test_a_hundred_invocations_are_few_cold_starts(bucket: Callable[[], str], platform: LocalLambda) -> None:
    """Those of this file, and of as many short runs as it takes: functions of the runs before are warm."""
    while platform.stats()["invocations"] < 100:
        done = lambdaml.train(TINY, bucket(), workers=8, functions=8, steps=2, **options_of(platform))
        assert done.fates["applied"] == 16
    assert silent(platform)
    assert platform.stats()["cold"] <= 30


def test_threads_are_gone(platform: LocalLambda | None) -> None:
    assert silent(platform)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("invoke")]
    assert issubclass(RunFailed, LambdaMLError)
