"""`lambdaml deploy aws` against two simulated AWS, as far as they go.

moto makes the stack, but has no EventInvokeConfig, budget, public access block or lifecycle, takes the image for a zip of
x86, deletes what should be retained, and cannot invoke without Docker. ministack does all but the budget and the lifecycle.
Neither checks permissions, nor that an image exists.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from lambdaml import __version__
from lambdaml.cli._app import run
from lambdaml.deploy import aws
from lambdaml.deploy.costs import costs
from lambdaml.errors import UserError
from tests.storage.servers import ministack

REGION = "us-east-1"
IMAGE = f"123456789012.dkr.ecr.{REGION}.amazonaws.com/lambdaml:1"
KEYS = ("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
WISH = aws.Wish("my-bucket", IMAGE, architecture="arm64")

pytestmark = pytest.mark.filterwarnings("ignore:Tried to parse:UserWarning")


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Made-up credentials, no files of the machine's own, and no waiting."""
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN", "LAMBDAML_PRICES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "AWS_ACCESS_KEY_ID": KEYS[0],
        "AWS_SECRET_ACCESS_KEY": KEYS[1],
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
        "COLUMNS": "200",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(aws, "POLL", {"Delay": 0.05, "MaxAttempts": 200})


@pytest.fixture
def moto() -> Iterator[None]:
    with mock_aws():
        yield


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ministack("s3,cloudformation,iam,lambda,logs,sts") as url:
        yield parse_qs(urlsplit(url).query)["endpoint"][0]


@pytest.fixture
def stack(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """ministack, with a template without the budget, which it would refuse; nothing of a test stays."""
    text = aws.template()
    start, end = text.index("  # A budget and no"), text.index("\nOutputs:")
    monkeypatch.setattr(aws, "template", lambda: text[:start] + text[end:])
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    yield
    formation = boto3.client("cloudformation")
    for found in formation.describe_stacks()["Stacks"]:
        formation.delete_stack(StackName=found["StackName"])
        formation.get_waiter("stack_delete_complete").wait(StackName=found["StackId"], WaiterConfig=aws.POLL)
    for bucket in boto3.client("s3").list_buckets()["Buckets"]:
        boto3.client("s3").delete_bucket(Bucket=bucket["Name"])


def deploy(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(["deploy", "aws", *arguments])
    captured = capsys.readouterr()
    assert not any(key in captured.out + captured.err for key in KEYS)
    return code, captured.out, captured.err


MAKE = ("--bucket", "my-bucket", "--image", IMAGE, "--arm64")


@pytest.mark.usefixtures("stack")
def test_from_nothing_to_a_function_and_back(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = deploy(capsys, *MAKE)
    assert code == 0 and f"stack lambdaml in {REGION}: stands\n" in out
    assert "--store s3://my-bucket/runs/RUN --engine lambda --function lambdaml" in out

    function = boto3.client("lambda").get_function_configuration(FunctionName="lambdaml")
    assert (function["PackageType"], function["Architectures"]) == ("Image", ["arm64"])
    assert (function["MemorySize"], function["Timeout"]) == (1769, 900)
    bucket = boto3.client("s3")
    block = bucket.get_public_access_block(Bucket="my-bucket")["PublicAccessBlockConfiguration"]
    assert set(block.values()) == {True}
    (rule,) = bucket.get_bucket_encryption(Bucket="my-bucket")["ServerSideEncryptionConfiguration"]["Rules"]
    assert rule["ApplyServerSideEncryptionByDefault"] == {"SSEAlgorithm": "AES256"}
    (log,) = boto3.client("logs").describe_log_groups()["logGroups"]
    assert (log["logGroupName"], log["retentionInDays"]) == ("/aws/lambda/lambdaml", 14)

    code, out, _ = deploy(capsys, "--check")
    assert code == 0 and "BAD" not in out
    for part in (
        f"deployed by {__version__}",
        "1769 MB, arm64, active",
        "you may (lambda:InvokeFunction)",
        "at a time",
    ):
        assert part in out

    assert "stands as it was" in deploy(capsys, *MAKE)[1]
    assert deploy(capsys, *MAKE, "--memory", "3008")[0] == 0
    assert boto3.client("lambda").get_function_configuration(FunctionName="lambdaml")["MemorySize"] == 3008

    bucket.put_object(Bucket="my-bucket", Key="runs/x/run.json", Body=b"{}")
    code, out, _ = deploy(capsys, "--remove")
    assert (code, out) == (0, f"stack lambdaml in {REGION} is gone; bucket my-bucket and its runs stay\n")
    assert bucket.get_object(Bucket="my-bucket", Key="runs/x/run.json")["Body"].read() == b"{}"
    with pytest.raises(ClientError, match="ResourceNotFound"):
        boto3.client("lambda").get_function_configuration(FunctionName="lambdaml")
    assert deploy(capsys, "--check")[:2] == (
        1,
        f"what   ok   finding\nstack  BAD  there is no stack lambdaml in {REGION}\n",
    )
    bucket.delete_object(Bucket="my-bucket", Key="runs/x/run.json")


@pytest.mark.usefixtures("stack")
def test_a_bucket_that_is_there_is_used_and_is_no_part_of_the_stack(capsys: pytest.CaptureFixture[str]) -> None:
    boto3.client("s3").create_bucket(Bucket="my-bucket")
    assert deploy(capsys, *MAKE)[0] == 0
    resources = boto3.client("cloudformation").describe_stack_resources(StackName="lambdaml")["StackResources"]
    assert {each["LogicalResourceId"] for each in resources} == {"Log", "Role", "Function", "Invocations"}
    assert deploy(capsys, "--remove")[1] == f"stack lambdaml in {REGION} is gone\n"


@pytest.mark.usefixtures("stack")
def test_two_functions_live_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    assert deploy(capsys, *MAKE)[0] == 0
    assert deploy(capsys, *MAKE, "--name", "other", "--x86", "--max-functions", "8")[0] == 0
    found = boto3.client("lambda").get_function_configuration(FunctionName="other")
    assert found["Architectures"] == ["x86_64"]
    assert deploy(capsys, "--remove")[0] == 0
    assert boto3.client("lambda").get_function_configuration(FunctionName="other")["State"] == "Active"


@pytest.mark.usefixtures("moto")
def test_moto_takes_the_whole_template_with_the_budget(capsys: pytest.CaptureFixture[str]) -> None:
    assert deploy(capsys, *MAKE, "--email", "me@example.com", "--monthly-usd", "25")[0] == 0
    (found,) = boto3.client("cloudformation").describe_stacks()["Stacks"]
    assert found["StackStatus"] == "CREATE_COMPLETE"
    assert {each["ParameterKey"]: each["ParameterValue"] for each in found["Parameters"]}["MonthlyUsd"] == "25"
    assert {each["OutputKey"]: each["OutputValue"] for each in found["Outputs"]}["Store"] == "s3://my-bucket/runs"


@pytest.mark.usefixtures("moto")
def test_a_bucket_in_another_region_is_refused_before_anything_is_made(capsys: pytest.CaptureFixture[str]) -> None:
    there = boto3.client("s3", region_name="eu-central-1")
    there.create_bucket(Bucket="my-bucket", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    code, out, err = deploy(capsys, *MAKE)
    assert (code, out) == (2, "")
    assert err == (
        f"error: bucket my-bucket is in eu-central-1, and functions would be in {REGION}: take one of theirs\n"
    )
    assert boto3.client("cloudformation").describe_stacks()["Stacks"] == []


def refused(code: str, message: str, operation: str, status: int = 400) -> ClientError:
    error = {"Code": code, "Message": message}
    return ClientError({"Error": error, "ResponseMetadata": {"HTTPStatusCode": status}}, operation)  # type: ignore[typeddict-item,unused-ignore]


@pytest.mark.parametrize(
    ("operation", "error", "says"),
    [
        (
            "DescribeStacks",
            refused("AccessDenied", "User: x is not authorized to perform: cloudformation:DescribeStacks", ""),
            "AWS refused to describe stack lambdaml: AccessDenied: User: x is not authorized to perform: cloudformation",
        ),
        (
            "CreateStack",
            refused("AccessDenied", "User: x is not authorized to perform: cloudformation:CreateStack", ""),
            "AWS refused to make stack lambdaml: AccessDenied",
        ),
        ("HeadBucket", refused("403", "Forbidden", "", 403), "bucket my-bucket cannot be used: it is somebody else's"),
        (
            "DescribeStacks",
            refused("ExpiredToken", "The security token included in the request is expired", ""),
            "AWS refused to describe stack lambdaml: ExpiredToken: The security token included in the request is expired",
        ),
    ],
)
@pytest.mark.usefixtures("moto")
def test_what_aws_refuses_is_one_line(
    operation: str,
    error: ClientError,
    says: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from botocore.client import BaseClient

    real = BaseClient._make_api_call

    def call(self: Any, name: str, parameters: Any) -> Any:
        if name == operation:
            raise error
        return real(self, name, parameters)

    monkeypatch.setattr(BaseClient, "_make_api_call", call)
    code, out, err = deploy(capsys, *MAKE)
    assert (code, out) == (2, "") and len(err.splitlines()) == 1
    assert says in err


@pytest.mark.usefixtures("stack")
def test_a_stack_that_fails_says_which_resource_and_why(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = aws.template().replace(
        "LogGroupName: !Sub /aws/lambda/${AWS::StackName}", "LogGroupName: !GetAtt Role.Nothing"
    )
    monkeypatch.setattr(aws, "template", lambda: text)
    code, out, err = deploy(capsys, *MAKE)
    assert (code, out) == (2, "") and len(err.splitlines()) == 1 and err.startswith("error: stack lambdaml: ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--bucket", "my-bucket"), "give --bucket and --image"),
        ((*MAKE, "--memory", "64"), "--memory 64: Lambda offers 128 to 10240 MB"),
        ((*MAKE, "--prefix", "/runs/"), "--prefix /runs/: write a folder of the bucket"),
        ((*MAKE, "--name", "9"), "--name 9: begin with a letter"),
        ((*MAKE, "--email", "me"), "--email me: this is no address"),
        ((*MAKE, "--monthly-usd", "5"), "--monthly-usd says what --email hears of"),
        ((*MAKE, "--check", "--remove"), "--dry-run, --check and --remove: give one of them"),
        ((*MAKE, "--region", "eu-west-1"), "the image is in us-east-1, and Lambda in eu-west-1 cannot run it"),
        (("--bucket", "s3://b/x", "--image", IMAGE), "--bucket s3://b/x: write the name of a bucket alone"),
        (("--bucket", "my-bucket", "--image", "docker.io/me/x"), "Lambda takes images from ECR alone, named ACCOUNT."),
        (("--bucket", "my-bucket", "--image", IMAGE[:-2]), "named ACCOUNT.dkr.ecr.REGION.amazonaws.com/NAME:TAG"),
        (("--remove", "--name", "nothing"), f"there is no stack nothing in {REGION}"),
    ],
)
@pytest.mark.usefixtures("moto")
def test_a_mistake_is_one_line(arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = deploy(capsys, *arguments)
    assert (code, out) == (2, "") and len(err.splitlines()) == 1
    assert says in err


def test_without_credentials_or_a_region_it_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    says = "error: there are no AWS credentials: run 'aws configure', or set AWS_PROFILE\n"
    assert deploy(capsys, *MAKE) == (2, "", says)
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    assert deploy(capsys, "--check") == (2, "", "error: which region? Give --region, or set AWS_REGION\n")


@pytest.mark.parametrize("status", ["CREATE_IN_PROGRESS", "ROLLBACK_COMPLETE", "DELETE_FAILED"])
def test_a_stack_that_cannot_be_changed_now_is_left_alone(status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    account = aws.Account()
    monkeypatch.setattr(account, "_stack", lambda name: {"StackStatus": status, "Parameters": []})
    with pytest.raises(UserError, match=rf"stack lambdaml is (being changed|broken) \({status}\)"):
        account.deploy(WISH)


def test_a_dry_run_names_everything_and_asks_nobody(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    code, out, err = deploy(capsys, *MAKE, "--dry-run", "--email", "me@example.com")
    assert (code, err) == (0, "")
    for name in ("Function", "Role", "Bucket", "AWS::Budgets::Budget"):
        assert name in out
    assert "lambda:InvokeFunction on arn:aws:lambda:us-east-1:123456789012:function:lambdaml" in out
    assert "s3:ListBucket on arn:aws:s3:::my-bucket, if s3:prefix is runs/*" in out
    assert "Spending" not in deploy(capsys, *MAKE, "--dry-run")[1]


def test_the_price_basis_is_the_arithmetic_of_the_book() -> None:
    from lambdaml import prices

    found = {cost.what: cost.usd for cost in costs(WISH, prices())}
    hour = 0.0000133334 * 1769 / 1024 * 3600
    assert found["a function of 1,769 MB"] == pytest.approx(hour)
    assert found["64 functions"] == pytest.approx(64 * hour / 6 + 64 * 0.2e-6)
    assert found["S3: reads, also of nothing"] == pytest.approx(0.0004)


def test_the_statements_have_no_name_left_to_fill_in() -> None:
    text = json.dumps(aws.Wish("a-bucket", IMAGE, name="PREFIX", prefix="BUCKET/x").permissions())
    assert "arn:aws:s3:::a-bucket/BUCKET/x/*" in text and "function:PREFIX" in text
