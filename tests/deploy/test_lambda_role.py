"""The role of deploy/lambda/template.yaml, as CloudFormation renders it, asked call by call: a policy simulator.

Calls without a condition are also put to moto's evaluator. What a run asks of S3 is not written down here, but watched.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

import boto3
import pytest
from moto import mock_aws

import lambdaml
from lambdaml.deploy import aws
from lambdaml.storage import check, open_store
from tests.deploy.iam import allowed
from tests.storage.s3server import S3Server

ROOT = Path(__file__).resolve().parents[2]
ACCOUNT, REGION, BUCKET, NAME = "123456789012", "us-east-1", "bucket", "lambdaml"
WISH = aws.Wish(BUCKET, f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/lambdaml:1", NAME, "team/runs")
JOB = f"{ROOT}/tests/lambdaml/lab.py:Tiny"
OBJECTS = f"arn:aws:s3:::{BUCKET}/team/runs"
LOG = f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:/aws/lambda/{NAME}"
FUNCTION = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{NAME}"

ACTIONS = {
    "put_object": "s3:PutObject",  # with If-None-Match, too
    "get_object": "s3:GetObject",  # with a range, too
    "head_object": "s3:GetObject",
    "list_objects_v2": "s3:ListBucket",
    "delete_object": "s3:DeleteObject",
    "delete_objects": "s3:DeleteObject",
}
"""The permission that each request of the store needs: AWS, "Required permissions for Amazon S3 API operations"."""

ALLOWED = [
    ("s3:PutObject", f"{OBJECTS}/digits-1/run.json"),
    ("s3:PutObject", f"{OBJECTS}/digits-1/updates/00000/0000000000"),
    ("s3:PutObject", f"{OBJECTS}/digits-1/log/0000000000.json"),
    ("s3:PutObject", f"{OBJECTS}/digits-1/leases/00000/0000000001"),
    ("s3:PutObject", f"{OBJECTS}/digits-1/invoke/00000/0000000001"),
    ("s3:PutObject", f"{OBJECTS}/digits-1/model.safetensors"),
    ("s3:GetObject", f"{OBJECTS}/digits-1/run.json"),
    ("s3:GetObject", f"{OBJECTS}/digits-1/snapshots/0000000010"),
    ("s3:GetObject", f"{OBJECTS}/nested/digits-1/memory/00000/0000000001"),
    ("s3:DeleteObject", f"{OBJECTS}/digits-1/probe/0123456789abcdef"),
    ("s3:DeleteObject", f"{OBJECTS}/probe/0123456789abcdef"),
    ("lambda:InvokeFunction", FUNCTION),
    ("logs:CreateLogStream", f"{LOG}:log-stream:2026/11/29/[$LATEST]0123456789abcdef"),
    ("logs:PutLogEvents", f"{LOG}:log-stream:2026/11/29/[$LATEST]0123456789abcdef"),
]

DENIED = [
    ("s3:GetObject", f"arn:aws:s3:::{BUCKET}/team/runs-of-others/run.json"),
    ("s3:GetObject", f"arn:aws:s3:::{BUCKET}/team/secret"),
    ("s3:GetObject", f"arn:aws:s3:::{BUCKET}/secret"),
    ("s3:GetObject", "arn:aws:s3:::another-bucket/team/runs/digits-1/run.json"),
    ("s3:PutObject", f"arn:aws:s3:::{BUCKET}/team/runs-of-others/run.json"),
    ("s3:PutObject", "arn:aws:s3:::another-bucket/team/runs/digits-1/run.json"),
    ("s3:DeleteObject", f"{OBJECTS}/digits-1/log/0000000000.json"),
    ("s3:DeleteObject", f"{OBJECTS}/digits-1/model.safetensors"),
    ("s3:PutObjectAcl", f"{OBJECTS}/digits-1/run.json"),
    ("s3:GetObjectVersion", f"{OBJECTS}/digits-1/run.json"),
    ("s3:DeleteBucket", f"arn:aws:s3:::{BUCKET}"),
    ("s3:PutBucketPolicy", f"arn:aws:s3:::{BUCKET}"),
    ("s3:PutLifecycleConfiguration", f"arn:aws:s3:::{BUCKET}"),
    ("s3:ListAllMyBuckets", "*"),
    ("lambda:InvokeFunction", f"{FUNCTION}-of-others"),
    ("lambda:InvokeFunction", FUNCTION.replace(REGION, "eu-west-1")),
    ("lambda:InvokeFunction", FUNCTION.replace(ACCOUNT, "210987654321")),
    ("lambda:UpdateFunctionCode", FUNCTION),
    ("lambda:UpdateFunctionConfiguration", FUNCTION),
    ("lambda:GetFunction", FUNCTION),
    ("lambda:DeleteFunction", FUNCTION),
    ("logs:PutLogEvents", f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:/aws/lambda/other:log-stream:x"),
    ("logs:CreateLogGroup", f"{LOG}:*"),
    ("logs:GetLogEvents", f"{LOG}:log-stream:x"),
    ("logs:DeleteLogGroup", f"{LOG}:*"),
    ("iam:PassRole", f"arn:aws:iam::{ACCOUNT}:role/admin"),
    ("sts:AssumeRole", f"arn:aws:iam::{ACCOUNT}:role/admin"),
    ("ecr:GetDownloadUrlForLayer", f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/lambdaml"),
    ("ec2:RunInstances", "*"),
    ("secretsmanager:GetSecretValue", f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:x"),
]

LISTED = [
    ("team/runs/digits-1/log/", True),
    ("team/runs/", True),
    ("team/runs", False),
    ("team/runs-of-others/", False),
    ("team/", False),
    ("", False),
    (None, False),  # a request without a prefix
]


@pytest.fixture(scope="module")
def role() -> Iterator[list[Any]]:
    """The policies of the role that the stack makes."""
    with mock_aws(), pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "made-up")
        with pytest.warns(UserWarning, match="Tried to parse"):
            aws.Account(REGION).deploy(WISH)
        iam = boto3.client("iam")
        (name,) = [found["RoleName"] for found in iam.list_roles()["Roles"]]
        assert iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"] == []
        names = iam.list_role_policies(RoleName=name)["PolicyNames"]
        documents = [iam.get_role_policy(RoleName=name, PolicyName=each)["PolicyDocument"] for each in names]
    yield [ast.literal_eval(each) if isinstance(each, str) else each for each in documents]


def second_opinion(role: list[Any], action: str, resource: str) -> bool:
    from moto.iam.access_control import IAMPolicy, PermissionResult

    unconditional = [
        {**policy, "Statement": [each for each in policy["Statement"] if "Condition" not in each]} for policy in role
    ]
    said = {IAMPolicy(json.dumps(policy)).is_action_permitted(action, resource) for policy in unconditional}
    return PermissionResult.PERMITTED in said and PermissionResult.DENIED not in said


@pytest.mark.parametrize(("action", "resource"), ALLOWED)
def test_a_run_may(action: str, resource: str, role: list[Any]) -> None:
    assert allowed(role, action, resource)
    assert second_opinion(role, action, resource)


@pytest.mark.parametrize(("action", "resource"), DENIED)
def test_nobody_may(action: str, resource: str, role: list[Any]) -> None:
    assert not allowed(role, action, resource)
    assert not second_opinion(role, action, resource)


@pytest.mark.parametrize(("prefix", "may"), LISTED)
def test_only_the_runs_may_be_listed(prefix: str | None, may: bool, role: list[Any]) -> None:
    context = {} if prefix is None else {"s3:prefix": prefix}
    assert allowed(role, "s3:ListBucket", f"arn:aws:s3:::{BUCKET}", context) is may
    assert not allowed(role, "s3:ListBucket", "arn:aws:s3:::another-bucket", context)


def test_the_role_is_what_a_dry_run_shows(role: list[Any]) -> None:
    assert [statement for policy in role for statement in policy["Statement"]] == WISH.permissions()


def test_the_simulator_follows_the_rules_of_iam() -> None:
    grant = {"Effect": "Allow", "Action": "s3:Get*", "Resource": "arn:aws:s3:::b/[x]?/*"}
    denial = {"Effect": "Deny", "Action": ["S3:GETOBJECT"], "Resource": "*/secret"}
    policies = [{"Statement": [grant]}, {"Statement": [denial]}]
    assert allowed(policies, "s3:GetObject", "arn:aws:s3:::b/[x]1/deep/down")
    assert not allowed(policies, "s3:GetObject", "arn:aws:s3:::b/x1/deep")
    assert not allowed(policies, "s3:GetObject", "arn:aws:s3:::b/[x]1/secret")
    assert not allowed(policies, "s3:PutObject", "arn:aws:s3:::b/[x]1/deep")


def test_nothing_is_granted_by_a_star() -> None:
    for statement in WISH.permissions():
        assert statement["Effect"] == "Allow" and "*" not in json.dumps(statement["Action"])
        assert statement["Resource"] != "*"


def test_the_store_makes_no_other_requests_than_those_above() -> None:
    tree = ast.parse((ROOT / "storage" / "boto.py").read_text())
    asked = {
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("self._ask", "self._call")
        if isinstance(node.args[0], ast.Constant)
    }
    assert asked == ACTIONS.keys()


class Watched(S3Server):
    """Notes what each request asks for, as IAM has it. It takes no bulk deletes, so that each delete names its key."""

    def __init__(self) -> None:
        super().__init__(refuses_bulk_deletes=(501, "NotImplemented"))
        self.asked: set[tuple[str, str, str | None]] = set()

    def count(self, method: str, path: str, create_only: bool) -> None:
        super().count(method, path, create_only)
        place, _, query = path.partition("?")
        options = dict(parse_qsl(query, keep_blank_values=True))
        assert options.keys() <= {"list-type", "prefix", "max-keys", "start-after", "encoding-type", "delete", "x-id"}
        if "delete" not in options:
            kind = "list" if "list-type" in options else method
            actions = {"PUT": "put_object", "GET": "get_object", "HEAD": "head_object", "DELETE": "delete_object"}
            resource = f"arn:aws:s3:::{unquote(place).strip('/')}"
            self.asked.add((ACTIONS[actions.get(kind, "list_objects_v2")], resource, options.get("prefix")))


@pytest.mark.parametrize(
    ("client", "engine", "options"),
    [("boto3", "inline", {}), ("obstore", "inline", {}), ("obstore", "lambda", {"endpoint_url": "local"})],
)
def test_the_role_allows_each_request_of_a_run(
    client: str, engine: str, options: dict[str, str], role: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store is tried, and two workers train, are evaluated and end: here, and as functions of a Lambda on this machine.
    The server watches."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "made-up")
    with Watched() as server:
        url = f"s3://{BUCKET}/team/runs/x?endpoint={server.endpoint}&region={REGION}&client={client}"
        store = open_store(url)
        check(store)
        store.close()
        how: dict[str, Any] = {"engine": engine, "engine_options": options, "snapshot_every": 2}
        lambdaml.train(JOB, url, workers=2, steps=6, schedule="bsp", **how)
    assert {action for action, _, _ in server.asked} == set(ACTIONS.values())
    refused = {
        (action, resource, prefix)
        for action, resource, prefix in server.asked
        if not allowed(role, action, resource, {} if prefix is None else {"s3:prefix": prefix})
    }
    assert len(server.asked) > 25 and refused == set()
    assert any("/launches/" in resource for _, resource, _ in server.asked) == (engine == "lambda")
