"""The user's AWS settings as boto3 reads them: the endpoint of S3, the region, and the origin of credentials.

https://docs.aws.amazon.com/sdkref/latest/guide/feature-ss-endpoints.html gives the order of endpoints:
AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, the `s3` section of the profile's `services`, the profile's `endpoint_url`; none
of them counts where AWS_IGNORE_CONFIGURED_ENDPOINT_URLS, or the profile, says so. Profiles are read by botocore, which
takes 0.3 s to import, and only where there are any.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from lambdaml.storage.errors import AccessDenied

_FILES = {"AWS_CONFIG_FILE": "~/.aws/config", "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials"}
_PROFILE = ("AWS_DEFAULT_PROFILE", "AWS_PROFILE")
_SOURCES = ("aws_access_key_id", "credential_process", "role_arn", "sso_session", "sso_start_url", "login_session")
"""The settings by which a profile says where its credentials come from."""

HOW = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or run `aws configure` or `aws sso login`"


def configured_endpoint() -> str | None:
    """Return the configured endpoint of S3, where None means AWS. Raises AccessDenied as `read_profile` does."""
    settings, services = read_profile()
    ignore = os.environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS") or settings.get("ignore_configured_endpoint_urls")
    if str(ignore).lower() == "true":
        return None
    s3 = services.get("s3", {})
    return (
        os.environ.get("AWS_ENDPOINT_URL_S3")
        or os.environ.get("AWS_ENDPOINT_URL")
        or (s3.get("endpoint_url") if isinstance(s3, Mapping) else None)
        or settings.get("endpoint_url")
        or None
    )


def configured_region() -> str | None:
    """Return AWS_REGION, AWS_DEFAULT_REGION, or the profile's region. Raises AccessDenied as `read_profile` does."""
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or read_profile()[0].get("region")


def has_credentials() -> bool:
    """Return whether the profile names an origin of credentials. Raises AccessDenied as `read_profile` does."""
    return is_chosen() or any(name in read_profile()[0] for name in _SOURCES)


def is_chosen() -> bool:
    """Return whether the environment names a profile."""
    return any(os.environ.get(name) for name in _PROFILE)


def read_profile() -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the settings of the profile in use, and of its `services`. Both are empty where there is no profile.

    Raises:
        AccessDenied: If the environment names a profile that does not exist, or the files cannot be read.
    """
    files = [os.path.expanduser(os.environ.get(name) or path) for name, path in _FILES.items()]
    if not is_chosen() and not any(os.path.exists(path) for path in files):
        return {}, {}
    errors: Any = import_module("botocore.exceptions")
    session: Any = import_module("botocore.session").Session()
    try:
        settings = session.get_scoped_config()
        services = session.full_config.get("services", {})
    except errors.ProfileNotFound:
        raise AccessDenied("AWS_PROFILE names a profile that does not exist; correct it, or unset it") from None
    except errors.BotoCoreError as error:
        raise AccessDenied(f"cannot read the AWS profile ({type(error).__name__}); correct ~/.aws/config") from None
    name = settings.get("services")
    if name is not None and name not in services:
        raise AccessDenied(f"the AWS profile names services {name!r}, which ~/.aws/config does not have; add them")
    return settings, services.get(name, {})


def boto_session() -> tuple[Any, Any]:
    """Return a boto3 session and its credentials.

    The wait is bounded: without any credentials, the machine's metadata service is asked once, for one second.

    Raises:
        AccessDenied: If boto3 finds no credentials, or cannot read the profile.
    """
    boto3: Any = import_module("boto3")
    errors: Any = import_module("botocore.exceptions")
    try:
        session = boto3.Session()
        credentials = session.get_credentials()
    except errors.BotoCoreError as error:
        raise AccessDenied(f"cannot get AWS credentials ({type(error).__name__}); {HOW}") from None
    if credentials is None:
        raise AccessDenied(f"no AWS credentials found; {HOW}")
    return session, credentials


def plain_session() -> Any:
    """Return a boto3 session that uses no profile, for credentials that are given to it."""
    session: Any = import_module("botocore.session").Session()
    settings = session.get_component("config_store")
    for name, value in {"profile": None, "config_file": os.devnull, "credentials_file": os.devnull}.items():
        settings.set_config_variable(name, value)
    return import_module("boto3").Session(botocore_session=session)
