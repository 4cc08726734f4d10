"""A function on AWS Lambda, made, examined and removed as one CloudFormation stack.

    wish = Wish("my-bucket", "123456789012.dkr.ecr.us-east-1.amazonaws.com/lambdaml:1")
    account = Account(wish.region)
    account.deploy(wish)             # makes the stack, or changes what is different
    account.check(wish.name)         # findings about the stack, and whether you may invoke its function
    account.remove(wish.name)

The stack is `deploy/lambda/template.yaml`. Its name is the function's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from typing import Any

from lambdaml.errors import UserError
from lambdaml.simulation.platform import LAMBDA_MB, LAMBDA_MB_PER_VCPU
from lambdaml.storage import Finding
from lambdaml.storage.endpoint import is_local

ARCHITECTURES = {"arm64": "lambda-arm", "x86_64": "lambda-x86"}
"""The platform of the price book for each architecture of a function."""

VERSION_TAG = "lambdaml"

POLL = {"Delay": 3, "MaxAttempts": 200}
"""The seconds between looks at a stack that changes, and how many there are; looking is free."""

_REGISTRY = re.compile(r"(\d{12})\.dkr\.ecr\.([a-z0-9-]+)\.amazonaws\.com/[a-z0-9._/-]+(:[\w.-]+|@sha256:[0-9a-f]{64})")
_MAKING = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE")


@dataclass(frozen=True, slots=True)
class Wish:
    """The stack that is asked for.

    Raises:
        UserError: If AWS could not make it, whatever the account.

    Attributes:
        bucket, prefix: The place of the runs. The bucket is made if there is none.
        image: The image's name in ECR, with a tag or digest.
        name: The name of the function and of the stack.
        memory_mb: The memory of a function.
        architecture: The architecture that the image was built for, one of `ARCHITECTURES`.
        max_functions: The most functions at a time, set aside from the account's limit, or 0 to share that.
        email, monthly_usd: Whom to tell when the account's bill of a month comes near that many dollars, if anybody.
    """

    bucket: str
    image: str
    name: str = "lambdaml"
    prefix: str = "runs"
    memory_mb: int = LAMBDA_MB_PER_VCPU
    architecture: str = "arm64"
    max_functions: int = 0
    email: str | None = None
    monthly_usd: int = 10

    def __post_init__(self) -> None:
        least, most = LAMBDA_MB
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", self.bucket):
            raise UserError(f"--bucket {self.bucket}: write the name of a bucket alone, such as my-bucket")
        if not re.fullmatch(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*", self.prefix):
            raise UserError(
                f"--prefix {self.prefix}: write a folder of the bucket without slashes around, such as runs"
            )
        if not _REGISTRY.fullmatch(self.image):
            form = "ACCOUNT.dkr.ecr.REGION.amazonaws.com/NAME:TAG"
            raise UserError(f"--image {self.image}: Lambda takes images from ECR alone, named {form}")
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]{0,63}", self.name):
            raise UserError(f"--name {self.name}: begin with a letter, and use letters, digits and hyphens, 64 at most")
        if not least <= self.memory_mb <= most:
            raise UserError(f"--memory {self.memory_mb}: Lambda offers {least} to {most} MB")
        if self.email is not None and not re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s]+", self.email):
            raise UserError(f"--email {self.email}: this is no address")

    @property
    def account(self) -> str:
        """The account of the image."""
        return self.image.partition(".")[0]

    @property
    def region(self) -> str:
        """The region of the image, which is the only one where Lambda can run it."""
        return self.image.split(".")[3]

    def parameters(self, makes_bucket: bool) -> dict[str, str]:
        """Return the template's parameters."""
        return {
            "BucketName": self.bucket,
            "CreateBucket": "true" if makes_bucket else "false",
            "Prefix": self.prefix,
            "ImageUri": self.image,
            "Architecture": self.architecture,
            "MemorySize": f"{self.memory_mb}",
            "MaxFunctions": f"{self.max_functions}",
            "Email": self.email or "",
            "MonthlyUsd": f"{self.monthly_usd}",
        }

    def resources(self) -> dict[str, str]:
        """Return the resources that a stack of this kind may have, by their names in the template, with their types."""
        found = dict(re.findall(r"^  (\w+):\n    Type: (AWS::\S+)", template(), re.MULTILINE))
        return {name: type for name, type in found.items() if name != "Spending" or self.email}

    def permissions(self) -> list[dict[str, Any]]:
        """Return the statements of the role, with the names filled in."""
        names = {
            "BUCKET": self.bucket,
            "PREFIX": self.prefix,
            "REGION": self.region,
            "ACCOUNT": self.account,
            "FUNCTION": self.name,
        }
        found: list[dict[str, Any]] = []
        for file in ("policy.json", "policy-function.json"):
            text = resources.files("lambdaml.deploy").joinpath(file).read_text(encoding="utf-8")
            text = re.sub("|".join(names), lambda word: names[word[0]], text)
            found += json.loads(text)["Statement"]
        return found


def template() -> str:
    """Return the text of the template."""
    return resources.files("lambdaml.deploy").joinpath("lambda", "template.yaml").read_text(encoding="utf-8")


class Account:
    """An account of AWS, in one region, with the credentials of this process's surroundings.

    Every method asks AWS. Each raises UserError, with one line, where AWS refuses, does not answer, or knows no such
    thing.

    Args:
        region: The region, or None for that of the surroundings (`AWS_REGION`, a profile).
        endpoint_url: The address of a server that speaks AWS's API, or None for AWS itself. One on this machine needs
            neither region nor credentials.
    """

    def __init__(self, region: str | None = None, endpoint_url: str | None = None) -> None:
        import boto3
        from botocore.config import Config

        self._quick = Config(connect_timeout=5, read_timeout=60, retries={"total_max_attempts": 5, "mode": "standard"})
        near = is_local(endpoint_url)
        keys = {"aws_access_key_id": "local", "aws_secret_access_key": "local"} if near else {}
        self._endpoint_url = endpoint_url
        self._session = boto3.Session(region_name=region or ("us-east-1" if near else None), **keys)
        self.region = self._session.region_name
        if self.region is None:
            raise UserError("which region? Give --region, or set AWS_REGION")

    def deploy(self, wish: Wish) -> bool:
        """Make the stack, or make it as it is wished, and wait until it stands. Return whether anything changed."""
        import botocore.exceptions

        from lambdaml import __version__

        if wish.region != self.region:
            raise UserError(f"the image is in {wish.region}, and Lambda in {self.region} cannot run it: push it there")
        found = self._stack(wish.name)
        self._demand_ready(wish.name, found)
        makes_bucket = _parameters(found).get("CreateBucket") == "true" or not self._has_bucket(wish.bucket)
        values = wish.parameters(makes_bucket)
        asked: dict[str, Any] = {
            "StackName": wish.name,
            "TemplateBody": template(),
            "Parameters": [{"ParameterKey": key, "ParameterValue": value} for key, value in values.items()],
            "Capabilities": ["CAPABILITY_IAM"],
            "Tags": [{"Key": VERSION_TAG, "Value": __version__}],
        }
        formation = self._client("cloudformation")
        with _asking(f"to make stack {wish.name}"):
            try:
                made = formation.update_stack(**asked) if found else formation.create_stack(**asked, OnFailure="DELETE")
            except botocore.exceptions.ClientError as error:
                if "No updates are to be performed" in error.response["Error"]["Message"]:
                    return False
                raise
        self._wait("stack_update_complete" if found else "stack_create_complete", wish.name, made["StackId"])
        return True

    def check(self, name: str) -> list[Finding]:
        """Return findings about the stack, its function, and whether these credentials may invoke it."""
        from lambdaml import __version__

        found = self._stack(name)
        if found is None:
            return [Finding("stack", False, f"there is no stack {name} in {self.region}")]
        tags = {tag["Key"]: tag["Value"] for tag in found.get("Tags", [])}
        values, version = _parameters(found), tags.get(VERSION_TAG, "no lambdaml")
        size = f"{values['MemorySize']} MB, {values['Architecture']}"
        return [
            Finding("stack", found["StackStatus"] in _MAKING, f"{name} in {self.region}: {found['StackStatus']}"),
            Finding("version", version == __version__, f"deployed by {version}; this is {__version__}"),
            self._finding("function", lambda: f"{size}, {self._state(name)}, {values['ImageUri']}"),
            self._finding("invoking", lambda: self._try_invoking(name)),
            Finding("room", True, self._room()),
            self._finding("bucket", lambda: self._describe_bucket(values["BucketName"], values["Prefix"])),
        ]

    def room(self) -> int:
        """Return how many functions may run at a time, together with all others of the account that have no room of their own."""
        with _asking("to tell the account's limit"):
            limits = self._client("lambda").get_account_settings()["AccountLimit"]
        return int(limits["UnreservedConcurrentExecutions"])

    def remove(self, name: str) -> str | None:
        """Remove the stack, wait until it is gone, and return the name of a bucket that it made, which stays."""
        found = self._stack(name)
        if found is None:
            raise UserError(f"there is no stack {name} in {self.region}")
        with _asking(f"to remove stack {name}"):
            self._client("cloudformation").delete_stack(StackName=name)
        self._wait("stack_delete_complete", name, found["StackId"])
        values = _parameters(found)
        return values["BucketName"] if values.get("CreateBucket") == "true" else None

    def _client(self, service: str) -> Any:
        return self._session.client(service, config=self._quick, endpoint_url=self._endpoint_url)

    def _stack(self, name: str) -> dict[str, Any] | None:
        """Return what AWS says about the stack, or None if there is none."""
        import botocore.exceptions

        with _asking(f"to describe stack {name}"):
            try:
                stacks = self._client("cloudformation").describe_stacks(StackName=name)["Stacks"]
            except botocore.exceptions.ClientError as error:
                if "does not exist" in error.response["Error"]["Message"]:
                    return None
                raise
        found: dict[str, Any] = stacks[0]
        return found

    def _demand_ready(self, name: str, found: dict[str, Any] | None) -> None:
        status = found["StackStatus"] if found else ""
        if status.endswith("_IN_PROGRESS"):
            raise UserError(f"stack {name} is being changed ({status}): wait until that has ended")
        if status and status not in _MAKING:
            raise UserError(f"stack {name} is broken ({status}): 'lambdaml deploy aws --remove' first")
        if found and "ImageUri" not in _parameters(found):
            raise UserError(f"stack {name} was not made by lambdaml: give another --name")

    def _wait(self, waiter: str, name: str, stack: str) -> None:
        import botocore.exceptions

        with _asking(f"to describe stack {name}"):
            try:
                self._client("cloudformation").get_waiter(waiter).wait(StackName=stack, WaiterConfig=POLL)
            except botocore.exceptions.WaiterError:
                raise UserError(f"stack {name}: {self._reason(stack)}") from None

    def _reason(self, stack: str) -> str:
        """Return the first reason that AWS gives for the failure of the latest change."""
        events = self._client("cloudformation").describe_stack_events(StackName=stack)["StackEvents"]
        failed = [event for event in events if event.get("ResourceStatus", "").endswith("_FAILED")]
        told = [event for event in failed if "cancelled" not in event.get("ResourceStatusReason", "cancelled")]
        if not told:
            return "AWS gives no reason; the console shows its events"
        return f"{told[-1]['LogicalResourceId']}: {told[-1]['ResourceStatusReason']}"

    def _has_bucket(self, bucket: str) -> bool:
        """Return whether there is such a bucket. It must be this region's, and one that may be looked at."""
        import botocore.exceptions

        with _asking(f"to describe bucket {bucket}"):
            try:
                answer = self._client("s3").head_bucket(Bucket=bucket)
            except botocore.exceptions.ClientError as error:
                answer, status = error.response, error.response["ResponseMetadata"]["HTTPStatusCode"]
                if status == 404:
                    return False
                if status == 403:
                    reason = "it is somebody else's, or you may not look at it"
                    raise UserError(f"bucket {bucket} cannot be used: {reason} (s3:ListBucket)") from None
                if status != 301:
                    raise
        where = answer["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region", self.region)
        if where != self.region:
            raise UserError(
                f"bucket {bucket} is in {where}, and functions would be in {self.region}: take one of theirs"
            )
        return True

    def _describe_bucket(self, bucket: str, prefix: str) -> str:
        if not self._has_bucket(bucket):
            raise UserError(f"there is no bucket {bucket}")
        return f"'lambdaml doctor s3://{bucket}/{prefix}' tries it"

    def _state(self, name: str) -> str:
        with _asking(f"to describe function {name}"):
            found = self._client("lambda").get_function_configuration(FunctionName=name)
        if found["State"] not in ("Active", "Inactive"):
            raise UserError(f"{found['State']}: {found.get('StateReason', 'no reason given')}")
        return str(found["State"]).lower()

    def _try_invoking(self, name: str) -> str:
        with _asking(f"to invoke function {name}"):
            self._client("lambda").invoke(FunctionName=name, InvocationType="DryRun")
        return "you may (lambda:InvokeFunction)"

    def _room(self) -> str:
        """Return how many functions the account has room for, which whoever invokes need not be allowed to ask."""
        try:
            return f"{self.room():,} functions at a time, which those of the account share"
        except UserError as error:
            return f"unknown: {error}"

    def _finding(self, name: str, ask: Any) -> Finding:
        try:
            return Finding(name, True, ask())
        except UserError as error:
            return Finding(name, False, str(error))


def _parameters(found: dict[str, Any] | None) -> dict[str, str]:
    return {each["ParameterKey"]: each["ParameterValue"] for each in (found or {}).get("Parameters", [])}


@contextmanager
def _asking(what: str) -> Iterator[None]:
    """Turn what boto3 raises into one line for a person, which never shows a key."""
    import botocore.exceptions as boto

    try:
        yield
    except (boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError):
        raise UserError("there are no AWS credentials: run 'aws configure', or set AWS_PROFILE") from None
    except boto.ClientError as error:
        told = error.response["Error"]
        raise UserError(f"AWS refused {what}: {told['Code']}: {told['Message']}") from None
    except boto.BotoCoreError as error:
        raise UserError(f"cannot ask AWS {what}: {error}") from None
