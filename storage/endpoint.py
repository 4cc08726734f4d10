"""The address of a server that is not the cloud's own: `?endpoint=http://127.0.0.1:9000`, or the environment's."""

from __future__ import annotations

import ipaddress
import urllib.parse

from lambdaml.storage.errors import BadStoreURL


def clean_endpoint(endpoint: str, credentials: str) -> str:
    """Return the endpoint without slashes at its end.

    Args:
        credentials: The words that say where credentials belong, for the message that refuses them here.

    Raises:
        BadStoreURL: If it is not the address of a server, or says more than that. The message repeats no secrets.
    """
    try:
        parts = urllib.parse.urlsplit(endpoint)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise BadStoreURL("cannot read the endpoint: write http://host:port or https://host") from None
    if parts.username is not None or parts.password is not None or "@" in endpoint:
        raise BadStoreURL(f"an endpoint must not contain credentials: {credentials}")
    if parts.scheme not in ("http", "https") or not host:
        shown = f"{parts.scheme}://{host or ''}" if "://" in endpoint else "it"
        raise BadStoreURL(f"endpoint: {shown} must begin with http:// or https://")
    if parts.query or parts.fragment or port == 0:
        raise BadStoreURL(f"endpoint {parts.scheme}://{host} must end with its host, port or path: {credentials}")
    return endpoint.rstrip("/")


def is_local(endpoint: str | None) -> bool:
    """Return whether the endpoint is on this machine, where no proxy is used and made-up credentials may suffice."""
    host = host_of(endpoint)
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_of(endpoint: str | None) -> str:
    """Return the endpoint's host, without port and brackets, or empty where there is none."""
    return urllib.parse.urlsplit(endpoint or "").hostname or ""
