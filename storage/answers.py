"""What an answer over HTTP means: one table for every client library."""

from __future__ import annotations

from lambdaml.storage.errors import AccessDenied, StoreError, StoreTimeout, StoreUnavailable, Throttled

_DENIED = frozenset(
    {
        "AccessDenied",
        "AuthorizationHeaderMalformed",
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidBucketName",
        "InvalidToken",
        "NoSuchBucket",
        "PermanentRedirect",
        "SignatureDoesNotMatch",
    }
)
_BUSY = frozenset({"SlowDown", "Throttling", "ThrottlingException", "TooManyRequests", "RequestLimitExceeded"})


def store_error(what: str, status: int | None, code: str | None) -> StoreError:
    """The error for an answer that is neither success nor "no such key" nor "the key exists".

    Args:
        what: the request, for the message: `put s3://bucket/key`.
        status: of HTTP, or None where no answer came.
        code: the store's own word, as in S3's `<Code>`.
    """
    said = " ".join(str(part) for part in (status, code) if part) or "no answer"
    if status in (429, 503) or code in _BUSY:
        return Throttled(f"{what}: the store asks to slow down ({said})")
    if status == 408 or code == "RequestTimeout":
        return StoreTimeout(f"{what}: no answer in time ({said})")
    if status is None or status >= 500 or status == 409 or code == "OperationAborted":
        return StoreUnavailable(f"{what}: {said}")
    if code == "NoSuchBucket":
        return AccessDenied(f"{what}: no such bucket; create it first, or correct the name")
    if status in (301, 307, 308) or code in ("PermanentRedirect", "AuthorizationHeaderMalformed"):
        return AccessDenied(f"{what}: the bucket is in another region ({said}); set AWS_REGION or ?region=")
    if status in (401, 403) or code in _DENIED:
        return AccessDenied(
            f"{what}: denied ({said}); the credentials need read, write, delete and list rights on the bucket "
            "(without s3:ListBucket, S3 denies reading a key that does not exist)"
        )
    return StoreError(f"{what}: refused ({said})")
