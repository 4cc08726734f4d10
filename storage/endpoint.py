"""The address of a server that is not the cloud's own: `?endpoint=http://127.0.0.1:9000`, or the environment's."""

from __future__ import annotations

import ipaddress
import urllib.parse

from lambdaml.storage.errors import BadStoreURL


def clean_endpoint(endpoint: str, credentials: str) -> str:
    """The endpoint without slashes at its end.

    Args:
        credentials: Says where credentials belong, for the message that refuses them here.

    Raises:
        BadStoreURL: If it is no address of a server, or says more than one. Secrets in it are not repeated.
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
    """Whether the endpoint is on this machine: no proxy leads to it, and made-up credentials may do."""
    host = host_of(endpoint)
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_of(endpoint: str | None) -> str:
    """The endpoint's host, without port and brackets; empty where there is none."""
    return urllib.parse.urlsplit(endpoint or "").hostname or ""
