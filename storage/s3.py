"""S3 URLs: `s3://bucket/prefix?endpoint=&region=&client=`, and where credentials come from. No client stands here.

Endpoint: the parameter, else AWS_ENDPOINT_URL_S3, else AWS_ENDPOINT_URL, else AWS.
Region: the parameter, else AWS_REGION, else AWS_DEFAULT_REGION, else that of the AWS profile, else us-east-1.
Credentials: AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN); else, for a server on this machine,
fixed dummies; else whatever boto3 finds (profile, single sign-on, web identity, container, instance).
"""

from __future__ import annotations

import ipaddress
import os
import urllib.parse
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from lambdaml.storage.backend import Backend
from lambdaml.storage.errors import AccessDenied, BadStoreURL
from lambdaml.storage.url import StoreURL, nearest

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 20.0
"""The longest silence of a server, and the time for up to 64 MB of upload."""

CLIENTS = ("obstore", "boto3")


@dataclass(frozen=True, slots=True)
class Keys:
    """Credentials. Never printed, never part of a URL."""

    access: str = field(repr=False)
    secret: str = field(repr=False)
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class S3Place:
    """A prefix of a bucket, and how to reach it. `endpoint` None means AWS, `region` None means not said yet."""

    bucket: str
    prefix: str
    endpoint: str | None = None
    region: str | None = None

    @classmethod
    def parse(cls, url: StoreURL) -> S3Place:
        """Completes the URL from the environment. Raises BadStoreURL."""
        env = os.environ.get
        bucket, prefix = split_bucket(url)
        endpoint = url.params.get("endpoint") or env("AWS_ENDPOINT_URL_S3") or env("AWS_ENDPOINT_URL") or None
        if endpoint is not None:
            parts = urllib.parse.urlsplit(endpoint)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise BadStoreURL(
                    f"endpoint {parts.scheme}://{parts.hostname or ''} must begin with http:// or https://"
                )
            if parts.username or parts.password:
                raise BadStoreURL("an endpoint must not contain credentials: set AWS_ACCESS_KEY_ID and the like")
        region = url.params.get("region") or env("AWS_REGION") or env("AWS_DEFAULT_REGION") or None
        return cls(bucket, prefix, endpoint.rstrip("/") if endpoint else None, region)

    @property
    def sorted(self) -> bool:
        """Whether lists come in the order of keys. Those of directory buckets (S3 Express One Zone) do not."""
        return not self.bucket.endswith("--x-s3")

    @property
    def local(self) -> bool:
        """Whether the endpoint is on this machine, so that dummy credentials will do."""
        host = urllib.parse.urlsplit(self.endpoint or "").hostname or ""
        if host == "localhost":
            return True
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False

    def url(self, client: str | None = None) -> str:
        """Opens the same place in another process."""
        location = f"{self.bucket}/{self.prefix}".rstrip("/")
        return str(StoreURL("s3", location).adding(endpoint=self.endpoint, region=self.region, client=client))

    def keys(self) -> Keys | None:
        """Credentials from the environment, or dummies for a local server, or None: ask boto3."""
        access, secret = os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_SECRET_ACCESS_KEY")
        if access and secret:
            return Keys(access, secret, os.environ.get("AWS_SESSION_TOKEN") or None)
        return Keys("moto", "moto") if self.local else None


def open_backend(url: StoreURL) -> Backend:
    """`s3://bucket/prefix` through obstore, or through boto3 with `?client=boto3`."""
    client = url.params.get("client", "obstore")
    place = S3Place.parse(url)
    if client == "obstore":
        from lambdaml.storage.cloud import CloudStore

        return CloudStore.s3(place)
    if client == "boto3":
        from lambdaml.storage.boto import BotoStore

        return BotoStore(place)
    raise BadStoreURL(f"client={client}: no such client{nearest(client, CLIENTS)}")


def split_bucket(url: StoreURL) -> tuple[str, str]:
    """`bucket/some/prefix` in its two parts. Raises BadStoreURL."""
    bucket, _, prefix = url.location.partition("/")
    prefix = prefix.strip("/")
    if not bucket or "@" in bucket or "//" in prefix or {".", ".."} & set(prefix.split("/")):
        raise BadStoreURL(f"cannot read {url.scheme}://{url.location.rpartition('@')[2]}: write bucket/prefix")
    if not 3 <= len(bucket) <= 63:
        raise BadStoreURL(f"{bucket!r} cannot be a bucket's name: those have 3 to 63 characters")
    return bucket, prefix


def boto_session() -> tuple[Any, Any]:
    """A boto3 session and its credentials.

    Bounded in time: without any credentials the machine's metadata service is asked once, for one second.

    Raises:
        AccessDenied: boto3 finds none, or cannot read the profile.
    """
    boto3: Any = import_module("boto3")
    errors: Any = import_module("botocore.exceptions")
    try:
        session = boto3.Session()
        credentials = session.get_credentials()
    except errors.BotoCoreError as error:
        raise AccessDenied(f"cannot get AWS credentials ({type(error).__name__}); {_HOW}") from None
    if credentials is None:
        raise AccessDenied(f"no AWS credentials found; {_HOW}")
    return session, credentials


_HOW = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or run `aws configure`"
