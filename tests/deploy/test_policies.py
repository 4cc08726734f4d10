"""The files in deploy/ grant what lambdaml does, and nothing more."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.iam import allowed, many

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
BUCKET, OBJECTS = "arn:aws:s3:::BUCKET", "arn:aws:s3:::BUCKET/PREFIX/"


def load(name: str) -> Any:
    return json.loads((DEPLOY / name).read_text())


@pytest.mark.parametrize(
    ("name", "actions"),
    [
        ("policy.json", {"s3:GetObject", "s3:PutObject", "s3:ListBucket", "s3:DeleteObject"}),
        ("policy-gc.json", {"s3:DeleteObject"}),
    ],
)
def test_a_policy_grants_exactly_these_actions(name: str, actions: set[str]) -> None:
    policy = load(name)
    assert policy["Version"] == "2012-10-17"
    assert {statement["Effect"] for statement in policy["Statement"]} == {"Allow"}
    assert {action for statement in policy["Statement"] for action in many(statement["Action"])} == actions


@pytest.mark.parametrize("name", ["policy.json", "policy-gc.json"])
def test_a_policy_reaches_one_prefix_of_one_bucket(name: str) -> None:
    for statement in load(name)["Statement"]:
        for resource in many(statement["Resource"]):
            if resource == BUCKET:
                assert statement["Condition"] == {"StringLike": {"s3:prefix": "PREFIX/*"}}
            else:
                assert resource.startswith(OBJECTS)


def test_training_can_do_what_a_run_needs() -> None:
    policy = load("policy.json")
    for action in ("s3:GetObject", "s3:PutObject"):
        assert allowed([policy], action, OBJECTS + "digits-1/updates/00000/0000000000")
    assert allowed([policy], "s3:ListBucket", BUCKET, {"s3:prefix": "PREFIX/digits-1/log/"})
    assert allowed([policy], "s3:DeleteObject", OBJECTS + "digits-1/probe/0123456789abcdef")
    assert allowed([policy], "s3:DeleteObject", OBJECTS + "probe/0123456789abcdef")


def test_training_cannot_delete_a_run_or_look_beside_the_prefix() -> None:
    policy = load("policy.json")
    assert not allowed([policy], "s3:DeleteObject", OBJECTS + "digits-1/log/0000000000.json")
    assert not allowed([policy], "s3:GetObject", "arn:aws:s3:::BUCKET/PREFIX-of-others/secret")
    assert not allowed([policy], "s3:ListBucket", BUCKET, {"s3:prefix": ""})
    assert not allowed([policy], "s3:ListBucket", BUCKET, {"s3:prefix": "PREFIX-of-others/"})


def test_only_gc_may_delete_a_run() -> None:
    assert allowed([load("policy-gc.json")], "s3:DeleteObject", OBJECTS + "digits-1/log/0000000000.json")


def test_the_lifecycle_expires_updates_alone_and_aborts_unfinished_uploads() -> None:
    updates, uploads = load("lifecycle.json")["Rules"]
    assert updates["Filter"] == {"Prefix": "PREFIX/RUN/updates/"}
    assert updates["Expiration"] == {"Days": 30}
    assert uploads["Filter"] == {"Prefix": "PREFIX/"}
    assert uploads["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 1}
    assert "Expiration" not in uploads
    assert all(rule["Status"] == "Enabled" for rule in (updates, uploads))


def test_the_readme_explains_every_file() -> None:
    text = (DEPLOY / "README.md").read_text()
    assert all(path.name in text for path in DEPLOY.iterdir() if path.suffix == ".json")
