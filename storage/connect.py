"""Connections of obstore to S3, Google Cloud Storage and Azure, with every option given so that none is looked up.

obstore reads the environment by itself, and not as the clouds' own libraries do. `AWS_ENDPOINT_URL_S3` takes precedence
over the `endpoint` that it is given, and `AWS_ENDPOINT`, `AWS_SESSION_TOKEN`, `AWS_S3_EXPRESS`, `AWS_SKIP_SIGNATURE`
and some twenty others count, whatever else is given. Each of these gets a value here, so that the data go where the
store's URL says. Only the variables that define how an object is kept are left alone: `AWS_SERVER_SIDE_ENCRYPTION`,
`AWS_SSE_...` and `AWS_CHECKSUM_ALGORITHM`.
"""

from __future__ import annotations

import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any

from lambdaml.storage.endpoint import clean_endpoint, host_of, is_local
from lambdaml.storage.place import CONNECT_TIMEOUT_S, EXPRESS, REGION_HEADER, Keys, S3Place
from lambdaml.storage.profile import boto_session
from lambdaml.storage.url import StoreURL

Options = dict[str, Any]

NO_RETRIES: Any = {"max_retries": 0}
"""The options without obstore's own retries, since `lambdaml.storage.retry` repeats requests and counts each."""

AZURITE = "http://127.0.0.1:10000"
AZURITE_ACCOUNT = "devstoreaccount1"
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The address of Azure's emulator, and its account, which everybody knows. See
https://learn.microsoft.com/azure/storage/common/storage-connect-azurite."""


def connect_s3(place: S3Place, client_options: Options, single_deletes: bool = False) -> Any:
    """Return an obstore store of the bucket. Raises AccessDenied where there are no credentials."""
    from obstore.store import S3Store

    region = place.region or "us-east-1"
    config: Options = {
        "region": region,
        "aws_endpoint_url_s3": place.endpoint or _aws(place, region),
        "virtual_hosted_style_request": place.express,
        "s3_express": place.express,
        "skip_signature": False,
        "unsigned_payload": False,
        "conditional_put": "etag",
        "request_payer": False,
        "disable_bulk_delete": single_deletes,
    }
    store: Any = S3Store
    return store(
        place.bucket,
        config=config,
        client_options=_straight(client_options, place.endpoint),
        retry_config=NO_RETRIES,
        credential_provider=_provider(place.keys()),
    )


def find_region(place: S3Place) -> str | None:
    """Return the region of a bucket, which S3 tells everybody, without credentials. None if nobody answers."""
    server = place.endpoint or _aws(place, place.region or "us-east-1")
    request = urllib.request.Request(f"{server}/{place.bucket}", method="HEAD")
    opener = urllib.request.build_opener(*[urllib.request.ProxyHandler({})] if place.local else [])
    try:
        with opener.open(request, timeout=CONNECT_TIMEOUT_S) as answer:
            found: str | None = answer.headers.get(REGION_HEADER)
    except urllib.error.HTTPError as error:
        found = error.headers.get(REGION_HEADER)
    except OSError:
        return None
    return found


def endpoint_of(url: StoreURL) -> str | None:
    """Return the endpoint of a `gs://` or `az://` URL, or else the environment's. None means the cloud itself.

    Raises:
        BadStoreURL: If it is not an endpoint.
    """
    found = url.params.get("endpoint") or (_google_endpoint() if url.scheme == "gs" else _azure_endpoint())
    where = "set GOOGLE_APPLICATION_CREDENTIALS" if url.scheme == "gs" else "set AZURE_STORAGE_ACCOUNT_KEY and the like"
    return None if found is None else clean_endpoint(found, where)


def connect_google(bucket: str, endpoint: str | None, client_options: Options, _: bool = False) -> Any:
    """Return an obstore store of the bucket. A server on this machine gets requests without credentials."""
    from obstore.store import GCSStore

    config: Options = {} if endpoint is None else {"base_url": endpoint}
    if is_local(endpoint):
        config |= {"skip_signature": True, "bearer_token": "none"}
    store: Any = GCSStore
    return store(bucket, config=config, client_options=_straight(client_options, endpoint), retry_config=NO_RETRIES)


def connect_azure(container: str, endpoint: str | None, client_options: Options, _: bool = False) -> Any:
    """Return an obstore store of the container.

    A server on this machine whose path names an account, as Azurite's does, gets the public key of the emulator,
    unless the environment has credentials for this account.
    """
    from obstore.store import AzureStore

    config: Options = {"use_emulator": False}
    if endpoint is not None:
        config["endpoint"] = endpoint
        account = urllib.parse.urlsplit(endpoint).path.strip("/")
        if is_local(endpoint) and account != os.environ.get("AZURE_STORAGE_ACCOUNT_NAME"):
            known = {"account_key": AZURITE_KEY, "credential_type": "access_key", "skip_signature": False}
            config |= {"account_name": account or AZURITE_ACCOUNT, **known}
    store: Any = AzureStore
    return store(container, config=config, client_options=_straight(client_options, endpoint), retry_config=NO_RETRIES)


def _straight(client_options: Options, endpoint: str | None) -> Options:
    """Return the options with plain HTTP where the endpoint says so, and without a proxy to this machine.

    obstore takes a list of hosts that need no proxy only together with a proxy. The one named here is never used.
    """
    if endpoint is None:
        return client_options
    options = {**client_options, "allow_http": endpoint.startswith("http://")}
    if is_local(endpoint):
        options |= {"proxy_url": "http://127.0.0.1:9", "proxy_excludes": host_of(endpoint)}
    return options


def _aws(place: S3Place, region: str) -> str:
    suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    if place.express:
        zone = place.bucket.removesuffix(EXPRESS).rpartition("--")[2]
        return f"https://{place.bucket}.s3express-{zone}.{region}.{suffix}"
    return f"https://s3.{region}.{suffix}"


def _provider(keys: Keys | None) -> Callable[[], Options]:
    if keys is None:
        from obstore.auth.boto3 import Boto3CredentialProvider

        session, _ = boto_session()
        provider: Any = Boto3CredentialProvider(session)
        return provider  # type: ignore[no-any-return]
    found = {
        "access_key_id": keys.access,
        "secret_access_key": keys.secret,
        "token": keys.token,
        "expires_at": None,
    }
    return lambda: found


def _google_endpoint() -> str | None:
    found = os.environ.get("GOOGLE_BASE_URL") or os.environ.get("STORAGE_EMULATOR_HOST") or None
    return found if found is None or "://" in found else f"http://{found}"


def _azure_endpoint() -> str | None:
    env = os.environ.get
    if found := env("AZURE_STORAGE_ENDPOINT") or env("AZURE_ENDPOINT"):
        return found
    if (env("AZURE_STORAGE_USE_EMULATOR") or "").lower() not in ("1", "true", "on", "yes", "y"):
        return None
    server = (env("AZURITE_BLOB_STORAGE_URL") or AZURITE).rstrip("/")
    return f"{server}/{env('AZURE_STORAGE_ACCOUNT_NAME') or AZURITE_ACCOUNT}"
