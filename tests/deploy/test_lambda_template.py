"""deploy/lambda/template.yaml: cfn-lint finds nothing in it, and it makes what it should and nothing else."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
TEXT = (DEPLOY / "lambda" / "template.yaml").read_text()


def load() -> Any:
    from cfnlint.decode import cfn_yaml

    return cfn_yaml.loads(TEXT)


TEMPLATE: Any = load()
RESOURCES = TEMPLATE["Resources"]


def properties(name: str) -> Any:
    return RESOURCES[name]["Properties"]


def lint(text: str) -> list[str]:
    from cfnlint.api import lint as lint_text
    from cfnlint.config import ManualArgs

    regions = ["us-east-1", "us-west-2", "eu-central-1", "ap-southeast-2"]
    return [str(match) for match in lint_text(text, config=ManualArgs(include_checks=["I"], regions=regions))]


def test_cfn_lint_has_neither_errors_nor_warnings_nor_remarks() -> None:
    assert lint(TEXT) == []


@pytest.mark.parametrize(
    ("change", "by"),
    [
        ("MaximumRetryAttempts: 2", "MaximumRetryAttempts: 3"),
        ("Role: !GetAtt Role.Arn", "Role: !GetAtt Rule.Arn"),
        ("Timeout: 900", "Timeout: 901"),
        ("PackageType: Image", "PackageKind: Image"),
    ],
)
def test_cfn_lint_would_have_found_a_mistake(change: str, by: str) -> None:
    assert TEXT.count(change) == 1 and lint(TEXT.replace(change, by))


def test_these_resources_are_made_and_no_others() -> None:
    assert {name: resource["Type"] for name, resource in RESOURCES.items()} == {
        "Log": "AWS::Logs::LogGroup",
        "Role": "AWS::IAM::Role",
        "Function": "AWS::Lambda::Function",
        "Invocations": "AWS::Lambda::EventInvokeConfig",
        "Bucket": "AWS::S3::Bucket",
        "Spending": "AWS::Budgets::Budget",
    }
    assert {name: resource["Condition"] for name, resource in RESOURCES.items() if "Condition" in resource} == {
        "Bucket": "MakesBucket",
        "Spending": "TellsSomebody",
    }
    assert "Transform" not in TEMPLATE  # CloudFormation alone understands it


@pytest.mark.parametrize(("which", "file"), [(0, "policy.json"), (1, "policy-function.json")])
def test_the_role_has_the_statements_of_the_policies_beside_it(which: int, file: str) -> None:
    """They stand in both places, and neither changes alone."""
    words = {
        "${BucketName}": "BUCKET",
        "${Prefix}": "PREFIX",
        "${AWS::Partition}": "aws",
        "${AWS::Region}": "REGION",
        "${AWS::AccountId}": "ACCOUNT",
        "${AWS::StackName}": "FUNCTION",
    }
    text = json.dumps(properties("Role")["Policies"][which]["PolicyDocument"])
    for word, stands_for in words.items():
        text = text.replace(word, stands_for)
    statements = json.loads(re.sub(r'\{"Fn::Sub": ("[^"]*")\}', r"\1", text))
    assert statements == json.loads((DEPLOY / file).read_text())


def test_only_lambda_may_take_the_role() -> None:
    (statement,) = properties("Role")["AssumeRolePolicyDocument"]["Statement"]
    assert statement["Principal"] == {"Service": "lambda.amazonaws.com"} and statement["Action"] == "sts:AssumeRole"
    assert properties("Role").keys() == {"Description", "AssumeRolePolicyDocument", "Policies"}  # no managed policy


def test_an_invocation_is_tried_three_times_and_forgotten_when_a_life_is_over() -> None:
    assert properties("Invocations")["MaximumRetryAttempts"] == 2
    assert properties("Invocations")["MaximumEventAgeInSeconds"] == properties("Function")["Timeout"] == 900


def test_the_bucket_is_private_encrypted_and_outlives_the_stack() -> None:
    bucket = properties("Bucket")
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    (rule,) = bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert rule == {"ServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
    (rule,) = bucket["LifecycleConfiguration"]["Rules"]
    assert rule["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 1} and "ExpirationInDays" not in rule
    assert RESOURCES["Bucket"]["UpdateReplacePolicy"] == "Retain"
    assert RESOURCES["Bucket"]["DeletionPolicy"] == "RetainExceptOnCreate"  # what a failed creation made goes


def test_the_log_is_the_functions_own_and_is_forgotten() -> None:
    assert properties("Log")["LogGroupName"] == {"Fn::Sub": "/aws/lambda/${AWS::StackName}"}
    assert properties("Function")["LoggingConfig"]["LogGroup"] == {"Ref": "Log"}
    assert properties("Log")["RetentionInDays"] <= 30


def test_somebody_is_told_before_and_when_the_money_is_spent() -> None:
    told = [each["Notification"] for each in properties("Spending")["NotificationsWithSubscribers"]]
    assert [(each["NotificationType"], each["Threshold"]) for each in told] == [("ACTUAL", 80), ("FORECASTED", 100)]


def test_it_is_small_enough_to_be_sent_as_it_is() -> None:
    assert len(TEXT.encode()) < 51_200  # CloudFormation's limit for a template that lies in no bucket


def test_no_secret_is_in_it() -> None:
    assert not re.search(r"AKIA|aws_secret|PRIVATE KEY|NoEcho", TEXT)
