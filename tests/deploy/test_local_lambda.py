"""The Lambda that runs here, through boto3: what it answers, how it starts, freezes and ends sandboxes, and retries."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from urllib.request import urlopen

import boto3
import psutil
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from lambdaml.deploy import local_lambda
from lambdaml.deploy.local_lambda import LocalLambda
from lambdaml.errors import UserError
from tests.storage import servers

ROOT = Path(__file__).resolve().parents[2]
HANDLER = "tests.deploy.small_handler.handler"


def lambda_client(url: str) -> Any:
    config = Config(retries={"total_max_attempts": 1}, max_pool_connections=64)
    names = {"region_name": "us-east-1", "aws_access_key_id": "local", "aws_secret_access_key": "local"}
    return boto3.client("lambda", endpoint_url=url, config=config, **names)


def invoke(local: LocalLambda, event: Any = None, **options: Any) -> tuple[dict[str, Any], Any]:
    answer = lambda_client(local.url).invoke(FunctionName=local.function, Payload=json.dumps(event or {}), **options)
    body = answer["Payload"].read()
    return answer, json.loads(body) if body else None


def send(local: LocalLambda, event: Any) -> None:
    answer, _ = invoke(local, event, InvocationType="Event")
    assert answer["StatusCode"] == 202


def eventually(condition: Callable[[], Any], within_s: float = 20.0) -> Any:
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)
    return found


def alive(pids: list[int]) -> list[int]:
    def runs(pid: int) -> bool:
        try:
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    return [pid for pid in pids if runs(pid)]


@pytest.fixture(scope="module")
def local() -> Iterator[LocalLambda]:
    with LocalLambda(HANDLER, memory_mb=256, timeout_s=2, concurrency=2, environment={"OWN": "1"}) as started:
        yield started


@pytest.fixture
def start() -> Iterator[Callable[..., LocalLambda]]:
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(LocalLambda(HANDLER, retry_after_s=0.01, **options))


def test_a_function_gets_its_event_its_limits_and_a_clean_environment(
    start: Callable[..., LocalLambda], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_CALLER", "1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mine")
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    local = start(timeout_s=9, memory_mb=512, environment={"OWN": "2"})
    answer, said = invoke(local, {"a": [1, 2]})
    assert answer["StatusCode"] == 200 and "FunctionError" not in answer and answer["ExecutedVersion"] == "$LATEST"
    assert said["event"] == {"a": [1, 2]} and said["memory_mb"] == "512" and said["name"] == "lambdaml"
    assert 5000 < said["remaining_ms"] <= 9000
    environment = said["environment"]
    expected = {"OWN": "2", "AWS_ACCESS_KEY_ID": "mine", "AWS_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}
    assert expected.items() <= environment.items() and environment["AWS_ENDPOINT_URL_LAMBDA"] == local.url
    assert not {"SECRET_OF_THE_CALLER", "AWS_SESSION_TOKEN"} & environment.keys()
    assert environment["TMPDIR"] == environment["HOME"] != os.environ["HOME"]


def test_a_cold_start_is_billed_and_reported_and_a_warm_one_is_not(start: Callable[..., LocalLambda]) -> None:
    local = start()
    pids = {invoke(local, {"sleep_s": 0.1})[1]["pid"] for _ in range(3)}
    cold, *warm = local.reports()
    assert len(pids) == 1 and [report.cold for report in local.reports()] == [True, False, False]
    assert cold.init_ms > 20 and 100 <= cold.duration_ms < 1000
    assert cold.duration_ms + cold.init_ms <= cold.billed_ms <= cold.duration_ms + cold.init_ms + 2
    for report in warm:
        assert report.init_ms == 0 and report.duration_ms <= report.billed_ms <= report.duration_ms + 1
        assert report.status == "success" and report.memory_mb == 1769
    assert local.stats()["cold"] == 1 and local.stats()["invocations"] == 3


def test_an_error_of_the_handler_is_unhandled_and_its_sandbox_lives_on(local: LocalLambda) -> None:
    _, first = invoke(local)
    answer, said = invoke(local, {"raise": "not today"})
    assert answer["FunctionError"] == "Unhandled"
    assert said["errorType"] == "ValueError" and said["errorMessage"] == "not today" and said["stackTrace"]
    assert invoke(local)[1]["pid"] == first["pid"]
    assert [report.status for report in local.reports()[-2:]] == ["error", "success"]


def test_a_process_that_ends_is_an_error_and_its_sandbox_is_replaced(local: LocalLambda) -> None:
    _, first = invoke(local)
    answer, said = invoke(local, {"exit": 3})
    assert answer["FunctionError"] == "Unhandled" and said["errorType"] == "Runtime.ExitError"
    assert said["errorMessage"].endswith("Runtime exited with error: exit status 3")
    assert invoke(local)[1]["pid"] != first["pid"]
    assert [(report.status, report.cold) for report in local.reports()[-2:]] == [("killed", False), ("success", True)]


def test_the_time_limit_ends_an_invocation(local: LocalLambda) -> None:
    invoke(local)
    answer, said = invoke(local, {"sleep_s": 60})
    assert answer["FunctionError"] == "Unhandled" and said["errorType"] == "Sandbox.Timedout"
    assert said["errorMessage"].endswith("Task timed out after 2.00 seconds")
    report = local.reports()[-1]
    assert report.status == "timeout" and report.billed_ms == 2000


def test_the_memory_limit_ends_an_invocation(local: LocalLambda) -> None:
    invoke(local)
    answer, said = invoke(local, {"memory_mb": 300, "sleep_s": 1.5})
    assert answer["FunctionError"] == "Unhandled" and said["errorMessage"].endswith("signal: killed")
    assert local.reports()[-1].status == "memory"
    assert "errorType" not in invoke(local, {"memory_mb": 100})[1]


def test_a_sandbox_is_frozen_between_invocations_and_has_a_folder_of_its_own(local: LocalLambda) -> None:
    (folder, before), (same, after) = (invoke(local, {"temporary": name})[1] for name in ("one", "two"))
    assert before == [] and after == ["one"] and same == folder
    frozen = eventually(lambda: [pid for pid in local.pids() if psutil.Process(pid).status() == psutil.STATUS_STOPPED])
    assert len(frozen) == local.stats()["idle"]
    invoke(local, {"exit": 1})
    assert not Path(folder).exists()


def test_over_the_concurrency_limit_calls_are_refused_and_events_wait(start: Callable[..., LocalLambda]) -> None:
    local = start(concurrency=2)
    for _ in range(5):
        send(local, {"sleep_s": 0.3})
    with pytest.raises(ClientError) as refused:
        invoke(local)
    assert refused.value.response["Error"]["Code"] == "TooManyRequestsException"
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 429
    assert refused.value.response["Reason"] == "ConcurrentInvocationLimitExceeded"
    eventually(lambda: len(local.reports()) == 5)
    assert local.stats()["cold"] == 2 and local.stats()["throttles"] == 1 and local.stats()["retries"] == 0


@pytest.mark.parametrize("event", [{"raise": "no"}, {"exit": 1}], ids=["error", "exit"])
def test_a_failed_event_is_retried_twice(start: Callable[..., LocalLambda], tmp_path: Path, event: Any) -> None:
    local = start()
    send(local, {"note": str(tmp_path / "runs"), **event})
    eventually(lambda: len(local.reports()) == 3)
    time.sleep(0.1)
    assert len((tmp_path / "runs").read_text().splitlines()) == 3 and local.stats()["retries"] == 2
    assert local.stats()["invocations"] == 3


def test_a_failed_call_is_not_retried(local: LocalLambda) -> None:
    before = local.stats()["invocations"]
    invoke(local, {"raise": "no"})
    time.sleep(0.1)
    assert local.stats()["invocations"] == before + 1


def test_a_function_can_invoke_itself(start: Callable[..., LocalLambda], tmp_path: Path) -> None:
    local = start()
    assert invoke(local, {"then": json.dumps({"note": str(tmp_path / "runs")})})[1] == 202
    eventually((tmp_path / "runs").exists)


def test_duplicates_failures_and_throttles_come_as_often_as_asked_and_from_the_seed(
    start: Callable[..., LocalLambda], tmp_path: Path
) -> None:
    seen = []
    for seed in (7, 7):
        local = start(concurrency=2, seed=seed, duplicates=0.2, throttles=0.2)
        accepted = 0
        for _ in range(40):
            try:
                send(local, {})
                accepted += 1
            except ClientError as error:
                assert error.response["Error"]["Code"] == "TooManyRequestsException"
        eventually(lambda: len(local.reports()) == accepted + local.stats()["duplicates"])
        seen.append([local.stats()[name] for name in ("duplicates", "throttles", "retries")])
        assert accepted + local.stats()["throttles"] == 40
    assert seen[0] == seen[1] and 3 <= seen[0][0] <= 15 and 3 <= seen[0][1] <= 15 and seen[0][2] == 0


def test_sandboxes_that_fail_are_retried_until_the_event_is_done(
    start: Callable[..., LocalLambda], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(local_lambda, "_FAILS_WITHIN_S", 0.2)
    local = start(seed=24, failures=0.3)  # of the first 10 draws 2 refuse and 2 kill, of the next 6 none
    for number in range(10):
        send(local, {"note": str(tmp_path / str(number)), "sleep_s": 1.0})
    eventually(lambda: len(list(tmp_path.iterdir())) == 10)
    eventually(lambda: local.stats()["running"] == 0)
    assert [local.stats()[name] for name in ("failures", "retries", "invocations")] == [4, 4, 14]
    assert {report.status for report in local.reports()} == {"success", "killed"}


def test_a_sandbox_that_does_not_start_is_a_fault_of_the_service(
    start: Callable[..., LocalLambda], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_lambda, "_FAILS_WITHIN_S", 0.2)
    local = start(failures=1.0, seed=1)
    codes = set()
    for _ in range(4):
        try:
            codes.add(invoke(local, {"sleep_s": 5})[0].get("FunctionError"))
        except ClientError as error:
            codes.add(error.response["Error"]["Code"])
    assert codes == {"ServiceException", "Unhandled"}


def test_kill_one_kills_a_function_that_runs(start: Callable[..., LocalLambda]) -> None:
    local = start()
    assert not local.kill_one()
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(invoke, local, {"sleep_s": 30})
        eventually(lambda: len(local.pids()) == 2)
        assert local.kill_one()
        assert answer.result(10)[1]["errorMessage"].endswith("signal: killed")


def test_idle_sandboxes_are_ended(start: Callable[..., LocalLambda], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_lambda, "IDLE_S", 0.0)
    local = start()
    _, said = invoke(local)
    eventually(lambda: not alive([said["pid"]]) and local.pids() == [])


def test_closing_leaves_nothing_behind(start: Callable[..., LocalLambda]) -> None:
    with LocalLambda(HANDLER) as local:
        for _ in range(3):
            send(local, {"sleep_s": 60})
        folder = invoke(local, {"temporary": "x"})[1][0]
        eventually(lambda: len(local.pids()) == 8)
        pids = local.pids()
    assert eventually(lambda: not alive(pids)) and not Path(folder).exists()


@pytest.mark.parametrize("end", ["stdin", "SIGTERM", "SIGINT", "SIGKILL"])
@pytest.mark.parametrize("command", ["lambdaml.deploy.local_lambda", "lambdaml.cli lambda-local"])
def test_no_process_outlives_the_dispatcher(command: str, end: str, tmp_path: Path) -> None:
    words = [sys.executable, "-m", *command.split(), "--handler", HANDLER, "--env", "OWN=3", "--log"]
    if end == "SIGTERM":
        words.append("--stay")
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(words, cwd=ROOT, text=True, env=environment, **pipes) as process:
        assert process.stdin and process.stdout and process.stderr
        client = lambda_client(process.stdout.readline().strip())
        client.invoke(FunctionName="lambdaml", InvocationType="Event", Payload='{"sleep_s": 60}')
        said = json.loads(client.invoke(FunctionName="lambdaml")["Payload"].read())
        eventually(lambda: len(psutil.Process(process.pid).children(recursive=True)) == 4)
        eventually(lambda: psutil.Process(said["pid"]).status() == psutil.STATUS_STOPPED)
        pids = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
        assert said["environment"]["OWN"] == "3" and said["pid"] in pids
        if end == "stdin":
            process.stdin.close()
        else:
            process.send_signal(signal.Signals[end])
        assert process.wait(10) == (-signal.SIGKILL if end == "SIGKILL" else 0)
        log = process.stderr.read()
        assert f"REPORT RequestId: {said['id']}" in log and "Traceback" not in log
    eventually(lambda: not alive(pids))
    assert end == "SIGKILL" or not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "size", "code"),
    [
        ("Event", 2**20, None),
        ("Event", 2**20 + 1, 413),
        ("RequestResponse", 6 * 2**20, None),
        ("RequestResponse", 6 * 2**20 + 1, 413),
    ],
)
def test_payloads_have_a_limit(local: LocalLambda, kind: str, size: int, code: int | None) -> None:
    head, tail = '{"temporary": "large", "x": "', '"}'
    payload = head + "x" * (size - len(head + tail)) + tail
    call = lambda_client(local.url).invoke
    if code is None:
        answer = call(FunctionName="lambdaml", InvocationType=kind, Payload=payload)
        assert answer["StatusCode"] == (202 if kind == "Event" else 200)
        assert "FunctionError" not in answer
        return
    with pytest.raises(ClientError) as refused:
        call(FunctionName="lambdaml", InvocationType=kind, Payload=payload)
    assert refused.value.response["Error"]["Code"] == "RequestTooLargeException"
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == code


def test_a_payload_must_be_json_and_a_dry_run_runs_nothing(local: LocalLambda) -> None:
    client = lambda_client(local.url)
    with pytest.raises(
        client.exceptions.InvalidRequestContentException, match="Could not parse request body into json"
    ):
        client.invoke(FunctionName="lambdaml", Payload="{no")
    before = local.stats()["invocations"]
    assert client.invoke(FunctionName="lambdaml", InvocationType="DryRun")["StatusCode"] == 204
    assert local.stats()["invocations"] == before


def test_the_control_plane_knows_the_function_its_limits_and_its_names(local: LocalLambda) -> None:
    client = lambda_client(local.url)
    configuration = client.get_function(FunctionName="lambdaml")["Configuration"]
    arn = configuration["FunctionArn"]
    assert (configuration["MemorySize"], configuration["Timeout"], configuration["State"]) == (256, 2, "Active")
    for name in (arn, f"{arn}:$LATEST", "012345678912:function:lambdaml"):
        assert client.get_function_configuration(FunctionName=name)["FunctionArn"] == arn
        assert client.invoke(FunctionName=name, InvocationType="DryRun")["StatusCode"] == 204
    assert client.get_account_settings()["AccountLimit"]["ConcurrentExecutions"] == 2


def test_a_function_may_be_named_by_its_arn(start: Callable[..., LocalLambda]) -> None:
    arn = "arn:aws:lambda:us-east-1:012345678912:function:mine"
    local = start(function=arn)
    assert local.function == "mine"
    assert lambda_client(local.url).invoke(FunctionName=arn, InvocationType="DryRun")["StatusCode"] == 204


def test_reports_and_counts_are_served_as_json(local: LocalLambda) -> None:
    _, said = invoke(local)
    with urlopen(f"{local.url}/reports") as reports, urlopen(f"{local.url}/stats") as stats:
        assert json.load(reports)[-1] == asdict(local.reports()[-1]) and json.load(stats) == local.stats()
    assert local.reports()[-1].request_id == said["id"]


def test_unknown_functions_are_refused_as_by_another_emulator(local: LocalLambda) -> None:
    """Ministack's control plane and ours give one code and one status, for each call."""
    answers = []
    with servers.ministack("s3,lambda") as url:
        for endpoint in (local.url, parse_qs(urlsplit(url).query)["endpoint"][0]):
            client = lambda_client(endpoint)
            for call, options in (
                (client.invoke, {"InvocationType": "Event", "Payload": "{}"}),
                (client.invoke, {"InvocationType": "RequestResponse", "Payload": "{}"}),
                (client.get_function, {}),
                (client.get_function_configuration, {}),
            ):
                with pytest.raises(client.exceptions.ResourceNotFoundException) as refused:
                    call(FunctionName="nobody", **options)
                answers.append(refused.value.response["ResponseMetadata"]["HTTPStatusCode"])
            assert "ConcurrentExecutions" in client.get_account_settings()["AccountLimit"]
    assert answers == [404] * 8


def test_what_sandboxes_say_is_logged_when_asked(start: Callable[..., LocalLambda]) -> None:
    log = io.StringIO()
    local = start(log=log)
    _, said = invoke(local)
    eventually(lambda: f"REPORT RequestId: {said['id']}" in log.getvalue())
    assert local.reports()[0].request_id == said["id"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"concurrency": 0}, "concurrency must lie between 1 and 1000, not 0"),
        ({"failures": 2.0}, "failures must lie between 0 and 1, not 2.0"),
        ({"port": 70000}, "port must lie between 0 and 65535, not 70000"),
        ({"memory_mb": 64}, "memory_mb must lie between 128 and 10240, not 64"),
    ],
)
def test_mistakes_are_refused_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        LocalLambda(HANDLER, **options)


def test_a_port_that_is_taken_is_refused_in_one_line(local: LocalLambda) -> None:
    port = int(local.url.rpartition(":")[2])
    with pytest.raises(UserError, match=f"^port {port} of 127.0.0.1 cannot be used: Address already in use$"):
        LocalLambda(HANDLER, port=port)


@pytest.mark.parametrize("command", ["lambdaml.deploy.local_lambda", "lambdaml.cli lambda-local"])
def test_without_an_emulator_one_line_says_how_to_get_it(command: str) -> None:
    words, environment = [sys.executable, "-m", *command.split()], {**os.environ, "LAMBDAML_RIE": "/no/such/emulator"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "/no/such/emulator" in line and "pip install --no-deps --target" in line


def test_a_handler_that_cannot_be_imported_is_an_error() -> None:
    with LocalLambda("tests.deploy.no_such_module.handler") as local:
        answer, said = invoke(local)
        assert answer["FunctionError"] == "Unhandled" and said["errorType"] == "Runtime.ImportModuleError"
