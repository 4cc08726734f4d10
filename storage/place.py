"""S3 URLs `s3://bucket/prefix?endpoint=&region=&client=&keys=&sorted=`, and the origin of credentials.

No client is defined here.

Endpoint: the parameter, else AWS_ENDPOINT_URL_S3, else AWS_ENDPOINT_URL, else the AWS profile's, else AWS.
Region: the parameter, else AWS_REGION, else AWS_DEFAULT_REGION, else that of the AWS profile, else us-east-1.
Credentials: AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN); else, for a server on this machine
and without a profile that says where to get some, made-up ones; else whatever boto3 finds (profile, single sign-on, web
identity, container, instance). `keys=made-up` means made-up ones in any case, and that no AWS setting counts.
Lists: `sorted=no` is for a server that lists in another order than that of keys, as SeaweedFS does (folder by folder).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from lambdaml.storage import profile
from lambdaml.storage.endpoint import clean_endpoint, is_local
from lambdaml.storage.errors import BadStoreURL
from lambdaml.storage.url import StoreURL

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 10.0
"""The longest silence of a server. Since obstore does not tell how far an upload has come, an upload of more than 1 MB
has twice that time for each 64 MB."""

EXPRESS = "--x-s3"
"""The end of the names of directory buckets."""

REGION_HEADER = "x-amz-bucket-region"
"""The header of answers that names a bucket's region."""

MADE_UP = "made-up"
"""The only value of `?keys=`."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Credentials, which are never printed and never part of a URL.

    Attributes:
        access: The access key's id.
        secret: The secret access key.
        token: The session token of temporary credentials, or None.
    """

    access: str = field(repr=False)
    secret: str = field(repr=False)
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class S3Place:
    """A prefix of a bucket, and how to reach it.

    Attributes:
        bucket: The bucket's name.
        prefix: The prefix of all keys.
        endpoint: The endpoint of the server; None means AWS.
        region: The region that is signed into each request; None means us-east-1.
        made_up: Whether requests are signed with a made-up key, so that no AWS setting of the user counts.
        sorted: Whether lists come in the order of keys. Those of directory buckets (S3 Express One Zone) do not.
    """

    bucket: str
    prefix: str
    endpoint: str | None = None
    region: str | None = None
    made_up: bool = False
    sorted: bool = True

    @classmethod
    def parse(cls, url: StoreURL) -> S3Place:
        """Complete the URL from the environment and the AWS profile, unless it says all. Raises BadStoreURL."""
        bucket, prefix = split_bucket(url)
        endpoint, region = url.params.get("endpoint"), url.params.get("region")
        made_up = "keys" in url.params
        if not made_up:
            if profile.is_chosen():
                profile.read_profile()
            endpoint = endpoint or profile.configured_endpoint()
            region = region or profile.configured_region()
        if endpoint is not None:
            endpoint = clean_endpoint(endpoint, "set AWS_ACCESS_KEY_ID and the like")
        if made_up and (url.params["keys"] != MADE_UP or not is_local(endpoint)):
            raise BadStoreURL(f"keys can only be {MADE_UP!r}, and only with the endpoint of a server on this machine")
        if url.params.get("sorted", "no") != "no":
            raise BadStoreURL("sorted can only be 'no': for a server that does not list in the order of keys")
        ordered = not (bucket.endswith(EXPRESS) or "sorted" in url.params)
        return cls(bucket, prefix, endpoint, region, made_up, ordered)

    @property
    def express(self) -> bool:
        """Whether it is a directory bucket of AWS, which has its own address and its own way to log in."""
        return self.endpoint is None and self.bucket.endswith(EXPRESS)

    @property
    def local(self) -> bool:
        """Whether the server is on this machine."""
        return is_local(self.endpoint)

    def url(self, client: str | None = None) -> str:
        """Return the URL that opens the same place in another process."""
        location = f"{self.bucket}/{self.prefix}".rstrip("/")
        params = {"endpoint": self.endpoint, "region": self.region, "client": client}
        params["keys"] = MADE_UP if self.made_up else None
        params["sorted"] = None if self.sorted or self.bucket.endswith(EXPRESS) else "no"
        return str(StoreURL("s3", location).adding(**params))

    def keys(self) -> Keys | None:
        """Return credentials from the environment, or made-up ones for a local server. None means to ask boto3."""
        env = os.environ.get
        if not self.made_up:
            access, secret = env("AWS_ACCESS_KEY_ID"), env("AWS_SECRET_ACCESS_KEY")
            if access and secret:
                return Keys(access, secret, env("AWS_SECURITY_TOKEN") or env("AWS_SESSION_TOKEN") or None)
            if access or secret or not self.local or profile.has_credentials():
                return None
        return Keys("moto", "moto")


def split_bucket(url: StoreURL) -> tuple[str, str]:
    """Split `bucket/some/prefix` in its two parts. Raises BadStoreURL, which repeats nothing that may be a secret."""
    bucket, _, prefix = url.location.partition("/")
    prefix = prefix.strip("/")
    if ":" in bucket or "@" in bucket:
        raise BadStoreURL(f"{url.scheme}:// URLs take credentials from the environment: write bucket/prefix alone")
    if not bucket or "//" in prefix or {".", ".."} & set(prefix.split("/")):
        raise BadStoreURL(f"cannot read {url.scheme}://{url.location}: write bucket/prefix")
    if not 3 <= len(bucket) <= 63:
        raise BadStoreURL(f"{bucket!r} cannot be a bucket's name: those have 3 to 63 characters")
    return bucket, prefix
