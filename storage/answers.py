"""The meaning of answers over HTTP: one table for every client library."""

from __future__ import annotations

from lambdaml.storage.errors import AccessDenied, StoreError, StoreTimeout, StoreUnavailable, Throttled

_DENIED = frozenset({"AccessDenied", "AuthorizationFailure", "AuthorizationPermissionMismatch", "InvalidBucketName"})
_ELSEWHERE = frozenset({"PermanentRedirect", "AuthorizationHeaderMalformed"})
_NO_BUCKET = frozenset({"NoSuchBucket", "ContainerNotFound"})
_KEYS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, to a key that this store knows"
_EXPIRED = "the session token has expired; get new credentials (`aws sso login`, or a new AWS_SESSION_TOKEN) and resume"
_DISABLED = "the account is disabled or not signed up; ask whoever pays for it"
_AZURE = "the key, token or this machine's clock is wrong; set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY"
_TO_DO = {
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "RequestExpired": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
    "InvalidToken": "the session token is not one of this access key's; unset AWS_SESSION_TOKEN, or set all three again",
    "RequestTimeTooSkewed": "this machine's clock and the store's differ by more than 15 minutes; set this machine's clock",
    "InvalidAccessKeyId": f"the store does not know the access key (mistyped, disabled, deleted or another's); {_KEYS}",
    "SignatureDoesNotMatch": f"the secret key is not that of the access key; {_KEYS}",
    "AuthorizationHeaderMalformed": "the region or the access key is wrong; set AWS_REGION or ?region=, and the keys",
    "AccountProblem": _DISABLED,
    "AllAccessDisabled": _DISABLED,
    "NotSignedUp": _DISABLED,
    "AccountIsDisabled": _DISABLED,
    "UserDisabled": _DISABLED,
    "AuthenticationFailed": _AZURE,
    "InvalidAuthenticationInfo": _AZURE,
    "NoAuthenticationInformation": _AZURE,
    "KeyBasedAuthenticationNotPermitted": "the account refuses keys; use a token (AZURE_STORAGE_TOKEN, or a client's)",
}
"""The advice for each code by which a store rejects our identity."""

_BUSY = frozenset({"SlowDown", "Throttling", "ThrottlingException", "TooManyRequests", "RequestLimitExceeded"})


_RIGHTS = {
    "put": "s3:PutObject",
    "create": "s3:PutObject",
    "get": "s3:GetObject",
    "get_range": "s3:GetObject",
    "head": "s3:GetObject",
    "list": "s3:ListBucket",
    "delete": "s3:DeleteObject",
}
"""The action of AWS IAM that each request to S3 must be allowed."""


def store_error(what: str, status: int | None, code: str | None, region: str | None = None) -> StoreError:
    """Return the error for an answer that is neither success nor "no such key" nor "the key exists".

    Args:
        what: The request, for the message, such as `put s3://bucket/key`.
        status: The HTTP status, or None where no answer came.
        code: The store's own error code, as in S3's `<Code>`.
        region: The region of the bucket, if the store named it.
    """
    said = " ".join(str(part) for part in (status, code) if part) or "no answer"
    if status in (429, 503) or code in _BUSY:
        return Throttled(f"{what}: the store asks to slow down ({said})")
    if status == 408 or code == "RequestTimeout":
        return StoreTimeout(f"{what}: no answer in time ({said})")
    if status == 501 or code == "NotImplemented":
        return StoreError(f"{what}: the store cannot do this ({said})")
    if region and (status in (301, 307, 308) or code in _ELSEWHERE):
        return AccessDenied(
            f"{what}: the bucket is in another region, {region} ({said}); set AWS_REGION={region} or ?region={region}"
        )
    if code in _TO_DO:
        return AccessDenied(f"{what}: {_TO_DO[code]} ({said})")
    if status is None or status >= 500 or status == 409 or code == "OperationAborted":
        return StoreUnavailable(f"{what}: {said}")
    if code in _NO_BUCKET:
        return AccessDenied(f"{what}: no such bucket; create it first, or correct the name")
    if status in (301, 307, 308) or code == "PermanentRedirect":
        return AccessDenied(f"{what}: the bucket is in another region ({said}); set AWS_REGION or ?region=")
    if status in (401, 403) or code in _DENIED:
        verb = what.partition(" ")[0]
        missing = f": {_RIGHTS[verb]} is not allowed" if " s3://" in what and verb in _RIGHTS else ""
        return AccessDenied(
            f"{what}: denied ({said}){missing}; the credentials need read, write, delete and list rights on the bucket "
            "(without s3:ListBucket, S3 denies reading a key that does not exist)"
        )
    if status == 400 and code is None and what.startswith("head "):  # the answer to a head has no body, and so no code
        return AccessDenied(f"{what}: refused ({said}); if the credentials are temporary, they may have expired")
    return StoreError(f"{what}: refused ({said})")
